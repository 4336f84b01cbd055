"""Text to batches: corpus, tokenizer, sentence pairs, packing, TFDS files, masking, loader.

Imports neither JAX nor Flax: the batches are NumPy arrays that any trainer can use.
"""
