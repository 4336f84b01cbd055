"""A row as it is stored: an example of three arrays, and a record of bytes.

An example holds the tokens of one row, end to end, and the lengths to take them apart again. Tokens are
stored as raw bytes (uint16 where the vocabulary allows it): parsing them is then a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np

from data_pipeline.packing import Row

TOKENS, LENGTHS, LABELS = "token_ids", "segment_lengths", "nsp_labels"

Example = dict[str, np.ndarray]


def token_dtype(vocab_size: int) -> type[np.generic]:
    """Type of the stored token ids."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


def example(row: Row, *, dtype: type[np.generic]) -> Example:
    """All tokens, (A, B) lengths of each packed sequence, next-sentence labels."""
    sizes = [(sequence.first_length, len(sequence.token_ids)) for sequence in row]
    return {
        TOKENS: np.array(list(chain.from_iterable(sequence.token_ids for sequence in row)), dtype),
        LENGTHS: np.array([length for first, size in sizes for length in (first, size - first)], np.uint16),
        LABELS: np.array([sequence.label for sequence in row], np.uint8),
    }


def tokens(examples: Iterable[Example], *, dtype: type[np.generic]) -> np.ndarray:
    """All token ids of some examples."""
    return np.concatenate([np.empty(0, dtype), *(example[TOKENS] for example in examples)])


def digest(examples: Iterable[Example]) -> str:
    """SHA-256 of some examples in their order."""
    sha256 = hashlib.sha256()
    for example in examples:
        sha256.update(len(example[LABELS]).to_bytes(4, "little"))
        for name in (LENGTHS, LABELS, TOKENS):
            sha256.update(example[name].tobytes())
    return sha256.hexdigest()


def serialize(example: Mapping[str, np.ndarray]) -> bytes:
    """A tf.train.Example with a bytes feature for each array, as TFDS stores it, without TensorFlow.

    tensorflow/core/example/example.proto: Example { Features { map<string, Feature { BytesList }> } }.
    """
    features = b"".join(
        _message(1, _message(1, name.encode()) + _message(2, _message(1, _message(1, array.tobytes()))))
        for name, array in sorted(example.items())
    )
    return _message(1, features)


def _message(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, varint = len(content), bytearray()
    while size >= 128:
        varint.append(size & 127 | 128)
        size >>= 7
    varint.append(size)
    return bytes([number << 3 | 2]) + varint + content


EMPTY = serialize({name: np.empty(0, np.uint8) for name in (TOKENS, LENGTHS, LABELS)})
"""The record of a row without tokens."""
