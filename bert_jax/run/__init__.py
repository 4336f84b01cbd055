"""A run while it goes on: the loop, its data, evaluation, metrics, and what watches over it."""
