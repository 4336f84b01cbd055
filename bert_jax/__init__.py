"""Pretraining of BERT-style encoders in JAX."""
