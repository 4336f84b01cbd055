"""A block of documents to stored rows and their counts: the pure function that every runner calls.

A block holds the documents of one source and split whose keys lie in one range. Keys are hashes, so a block
is a random sample of its source, whoever reads the corpus and in whatever order; the rows of a block are a
function of its documents, the config and the tokenizer.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data_pipeline import instances, records
from data_pipeline.config import DataConfig
from data_pipeline.corpus import KEY_BITS, Document, in_validation
from data_pipeline.packing import pack
from data_pipeline.records import Example
from data_pipeline.tokenizer import Tokenizer

BLOCK_CHARACTERS = 4_000_000
"""Text in a block, about: what a process holds at a time, and what random pairs are drawn from."""

Item = TypeVar("Item")
Part = tuple[int, str]
"""A source, by its place in data.source, and a split."""


class Block(NamedTuple):
    """A range of keys of one part of the corpus."""

    source: int
    split: str
    number: int
    """Its number in its part, from 0."""
    total: int
    """Blocks of the part."""

    @property
    def keys(self) -> range:
        """The keys of its documents."""
        first, last = (-(-(n << KEY_BITS) // self.total) for n in (self.number, self.number + 1))
        return range(first, last)


def plan(characters: Mapping[Part, int]) -> list[Block]:
    """The blocks of a corpus with so many characters in its parts, in the order in which they are stored."""
    return [
        Block(source, split, number, total)
        for (source, split), size in sorted(characters.items(), key=lambda item: item[0][::-1])
        for total in [max(1, round(size / BLOCK_CHARACTERS))]
        for number in range(total)
    ]


def block_of(part: Part, total: int, document: Document) -> Block:
    """The one of `total` blocks that a document is in."""
    return Block(*part, document.key * total >> KEY_BITS, total)


def without_empty(counted: Mapping[Part, int]) -> tuple[dict[Part, int], int]:
    """The characters of each part, and how many documents have no text; see `size_of`."""
    characters = {part: size for part, size in counted.items() if part[1] != NO_TEXT}
    return characters, sum(size for part, size in counted.items() if part[1] == NO_TEXT)


def size_of(document: Document) -> int:
    """What a document counts in its part: its characters, or 1 where it has no text."""
    return document.characters or 1


def unique(documents: Iterable[Item]) -> Iterator[Item]:
    """Sorted documents, each once."""
    return (document for document, _ in groupby(documents))


NO_TEXT = "no text"
"""In place of a split, for documents that are left out."""


def split_of(config: DataConfig, document: Document) -> str:
    if not document.lines:
        return NO_TEXT
    held_out = in_validation(document, fraction=config.validation_fraction, seed=config.seed)
    return "validation" if held_out else "train"


_zero = functools.partial(np.zeros, (), np.int64)


@dataclass
class Statistics:
    """Counts of blocks of one part of the corpus. Those of two sets of blocks add up with `+`."""

    documents: int = 0
    duplicates: int = 0
    """Documents that were dropped because another one has the same text."""
    characters: int = 0
    words: int = 0
    """Between spaces."""
    pieces: int = 0
    """Tokens of the text; rows hold special tokens too, and a text can be in more or less than one row."""
    unknown: int = 0
    """Pieces that are unk."""
    truncated: int = 0
    """Tokens cut off so that two texts fit in a row."""
    rows: int = 0
    sequences: int = 0
    label_counts: np.ndarray = field(default_factory=_zero)
    """[3]: labels 0, 1 and none."""
    token_counts: np.ndarray = field(default_factory=_zero)
    """[V], of the rows."""
    sequence_lengths: np.ndarray = field(default_factory=_zero)
    """[S + 1]: how many sequences have that many tokens."""
    document_lengths: np.ndarray = field(default_factory=_zero)
    """[32]: how many documents have 2^i to 2^(i+1) - 1 tokens."""
    digests: tuple[tuple[int, str], ...] = ()
    """SHA-256 of the rows of each block, with its number."""

    def __add__(self, other: Statistics) -> Statistics:
        names = self.__dataclass_fields__
        return Statistics(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def tokens(self) -> int:
        return int(np.sum(self.token_counts))

    @property
    def digest(self) -> str:
        ordered = "".join(digest for _, digest in sorted(self.digests))
        return hashlib.sha256(ordered.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["digests"] = sorted(self.digests)
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Statistics:
        arrays = {name: np.asarray(value) for name, value in values.items() if isinstance(value, list)}
        digests = tuple((number, digest) for number, digest in values["digests"])
        return cls(**{**values, **arrays, "digests": digests})


def examples_of_block(
    config: DataConfig, block: Block, documents: Iterable[Document], words: Tokenizer
) -> tuple[list[Example], Statistics]:
    """What is stored of a block, in order. `documents` may come in any order, and more than once."""
    given = sorted(documents)
    texts = [document.lines for document in unique(given)]
    ids = iter(words.encode_batch([line for lines in texts for line in _parted(lines, words.line_start)]))
    encoded = [[next(ids) for _ in lines] for lines in texts]
    rng = random.Random(f"{config.seed}/{block.source}/{block.split}/{block.number}")
    rows = pack(
        _sequences(config, encoded, words, rng),
        sequence_length=config.sequence_length,
        max_sequences=config.max_sequences_per_row,
    )
    dtype = records.token_dtype(words.vocab_size)
    examples = [records.example(row, dtype=dtype) for row in rows]
    lengths = [sum(map(len, lines)) for lines in encoded]
    unk = words.special_tokens.unk
    sequences = list(chain(*rows))
    return examples, Statistics(
        documents=len(texts),
        duplicates=len(given) - len(texts),
        characters=sum(len(line) for lines in texts for line in lines),
        words=sum(len(line.split()) for lines in texts for line in lines),
        pieces=sum(lengths),
        unknown=0 if unk is None else sum(line.count(unk) for lines in encoded for line in lines),
        truncated=sum(sequence.truncated for sequence in sequences),
        rows=len(rows),
        sequences=len(sequences),
        label_counts=_histogram([sequence.label for sequence in sequences], 3),
        token_counts=_histogram(records.tokens(examples, dtype=dtype), words.vocab_size),
        sequence_lengths=_histogram([len(s.token_ids) for s in sequences], config.sequence_length + 1),
        document_lengths=_histogram([length.bit_length() - 1 for length in lengths if length], 32),
        digests=((block.number, records.digest(examples)),),
    )


def _parted(lines: list[str], line_start: str) -> Iterator[str]:
    return (line_start * (number > 0) + line for number, line in enumerate(lines))


def _histogram(values: Any, size: int) -> np.ndarray:
    return np.bincount(np.asarray(values, np.int64), minlength=size)


def _sequences(
    config: DataConfig, documents: list[list[instances.Line]], words: Tokenizer, rng: random.Random
) -> Iterator[instances.Sequence]:
    cls, sep = words.special_tokens.cls, words.special_tokens.sep
    size, short = config.sequence_length, config.short_sequence_probability
    match config.input_format:
        case "next_sentence":
            return instances.next_sentence_pairs(
                documents, sequence_length=size, short_sequence_probability=short, cls=cls, sep=sep, rng=rng
            )
        case "sentence_order":
            return instances.sentence_order_pairs(
                documents, sequence_length=size, short_sequence_probability=short, cls=cls, sep=sep, rng=rng
            )
        case "full_sentences":
            return instances.full_sentences(documents, sequence_length=size, cls=cls, sep=sep)
        case "documents":
            return instances.document_sequences(documents, sequence_length=size, cls=cls, sep=sep)
