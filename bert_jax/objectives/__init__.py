"""Pretraining objectives: losses and their metrics."""
