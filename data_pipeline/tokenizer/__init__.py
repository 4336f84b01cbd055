"""Subword tokenizers: trained here (SentencePiece, WordPiece, byte-level BPE), or anyone's tokenizer.json.

training.py     from a corpus, or the file that the config names, to a tokenizer
conversion.py   vocab.txt and SentencePiece's model to tokenizer.json
tokenizer.py    a folder's tokenizer: ids of texts, special tokens, files
encoding.py     ids of many lines, fast
spelling.py     where words begin
"""

from data_pipeline.tokenizer.tokenizer import Tokenizer, load, settings
from data_pipeline.tokenizer.training import SPECIAL_PIECES, TRAINING_CHARACTERS, Lines, train

__all__ = ["SPECIAL_PIECES", "TRAINING_CHARACTERS", "Lines", "Tokenizer", "load", "settings", "train"]
