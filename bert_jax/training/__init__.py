"""The train step and what it is made of: optimizer, batch ramp, budget, analytic cost."""
