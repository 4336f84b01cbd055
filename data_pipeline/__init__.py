"""Text to batches: corpus, tokenizer, sentence pairs, packing, TFDS files, masking, loader.

Imports neither JAX nor Flax: the batches are NumPy arrays that any trainer can use.
"""

import os

# TensorFlow introduces itself at every start, unless told not to before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
