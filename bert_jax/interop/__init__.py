"""Weights in and out: Hugging Face, google-research/bert, other runs."""
