"""Subword tokenizers: trained here (SentencePiece, WordPiece, byte-level BPE), or anyone's tokenizer.json.

training.py     from a corpus, or the file that the config names, to a tokenizer
conversion.py   vocab.txt and SentencePiece's model to tokenizer.json
extension.py    more pieces for one that is there already
tokenizer.py    a folder's tokenizer: ids of texts, special tokens, files
encoding.py     ids of many lines, fast
spelling.py     where words begin
"""

from data_pipeline.tokenizer.extension import is_unused
from data_pipeline.tokenizer.tokenizer import Tokenizer, load, settings
from data_pipeline.tokenizer.training import SPECIAL_PIECES, TRAINING_CHARACTERS, Lines, train

__all__ = [
    "SPECIAL_PIECES",
    "TRAINING_CHARACTERS",
    "Lines",
    "Tokenizer",
    "is_unused",
    "load",
    "settings",
    "train",
]
