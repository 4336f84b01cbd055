"""Documents to sequences: pairs in BERT's or ALBERT's manner, or single texts in RoBERTa's.

Pure functions of token ids and a random generator; no text, no files.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

NO_LABEL = 2
"""`Sequence.label` of a sequence that teaches nothing about the next sentence."""

Line = list[int]


class Sequence(NamedTuple):
    """One model input: [CLS] A [SEP] B [SEP], or [CLS] A [SEP]."""

    token_ids: list[int]
    first_length: int
    """Tokens of type 0: [CLS] A [SEP]. The rest are of type 1."""
    label: int
    """1: B is from another document, or A and B are swapped; 0: B follows A; NO_LABEL."""
    truncated: int = 0
    """Tokens that were cut off to make A and B fit."""


def cut_lines(document: list[Line], *, limit: int) -> list[Line]:
    """Lines of at most `limit` tokens: a paragraph in one line would otherwise be truncated away."""
    return [line[start : start + limit] for line in document for start in range(0, len(line), limit)]


def next_sentence_pairs(
    documents: list[list[Line]],
    *,
    sequence_length: int,
    short_sequence_probability: float,
    cls: int,
    sep: int,
    rng: random.Random,
) -> Iterator[Sequence]:
    """Sentence pairs as in google-research/bert/create_pretraining_data.py, create_instances_from_document.

    A random B comes from another one of `documents`; a chunk of a single line always takes one. The lines
    that a random B displaced are put back. Where there is no other document, a chunk of a single line has
    no label and no B.
    """
    limit = sequence_length - 3
    documents = [cut for document in documents if (cut := cut_lines(document, limit=(limit + 1) // 2))]
    for index, document in enumerate(documents):
        target = _target(limit, short_sequence_probability, rng)
        start = 0
        while start < len(document):
            end = _chunk_end(document, start, target)
            middle = start + 1 if end - start == 1 else rng.randint(start + 1, end - 1)
            first = list(chain(*document[start:middle]))
            if len(documents) > 1 and (end - start == 1 or rng.random() < 0.5):
                second = _random_lines(documents, index, target - len(first), rng)
                label = 1
                end = middle
            else:
                second = list(chain(*document[middle:end]))
                label = 0 if second else NO_LABEL
            yield _pair(first, second, label, limit, cls, sep, rng)
            start = end


def sentence_order_pairs(
    documents: list[list[Line]],
    *,
    sequence_length: int,
    short_sequence_probability: float,
    cls: int,
    sep: int,
    rng: random.Random,
) -> Iterator[Sequence]:
    """Neighbouring texts of one document, half of them in the wrong order, label 1 (ALBERT, section 3.1).

    The chunks are those of `next_sentence_pairs`. A chunk of a single line has no label and no B.
    """
    limit = sequence_length - 3
    for document in documents:
        lines = cut_lines(document, limit=(limit + 1) // 2)
        target = _target(limit, short_sequence_probability, rng)
        start = 0
        while start < len(lines):
            end = _chunk_end(lines, start, target)
            middle = start + 1 if end - start == 1 else rng.randint(start + 1, end - 1)
            first, second = list(chain(*lines[start:middle])), list(chain(*lines[middle:end]))
            label = NO_LABEL
            if second:
                label = int(rng.random() < 0.5)
                first, second = (second, first) if label else (first, second)
            yield _pair(first, second, label, limit, cls, sep, rng)
            start = end


def full_sentences(
    documents: list[list[Line]], *, sequence_length: int, cls: int, sep: int
) -> Iterator[Sequence]:
    """Contiguous lines up to `sequence_length`, across documents with a [SEP] between (RoBERTa, section 4.2).

    Every token of `documents` is in exactly one sequence.
    """
    limit = sequence_length - 2
    tokens: list[int] = []
    for document in filter(any, documents):
        if tokens and len(tokens) < limit:
            tokens.append(sep)
        for line in cut_lines(document, limit=limit):
            if len(tokens) + len(line) > limit:
                yield _full(tokens, cls, sep)
                tokens = []
            tokens += line
    if tokens:
        yield _full(tokens, cls, sep)


def document_sequences(
    documents: list[list[Line]], *, sequence_length: int, cls: int, sep: int
) -> Iterator[Sequence]:
    """Each document by itself, cut every `sequence_length` tokens, wherever that is: packed, rows are full.

    Every token of `documents` is in exactly one sequence.
    """
    for document in documents:
        for tokens in cut_lines([list(chain(*document))], limit=sequence_length - 2):
            yield _full(tokens, cls, sep)


def _full(tokens: list[int], cls: int, sep: int) -> Sequence:
    if tokens[-1] == sep:  # the document ended where the sequence does
        tokens = tokens[:-1]
    return Sequence([cls, *tokens, sep], len(tokens) + 2, NO_LABEL)


def _target(limit: int, short_sequence_probability: float, rng: random.Random) -> int:
    """Tokens that the pairs of a document are to have."""
    return rng.randint(2, limit) if rng.random() < short_sequence_probability else limit


def _chunk_end(document: list[Line], start: int, target: int) -> int:
    """Where the lines from `start` on reach `target` tokens, or the document ends."""
    length = 0
    for end in range(start, len(document)):
        length += len(document[end])
        if length >= target:
            return end + 1
    return len(document)


def _pair(
    first: Line, second: Line, label: int, limit: int, cls: int, sep: int, rng: random.Random
) -> Sequence:
    excess = max(0, len(first) + len(second) - limit)
    first, second = _truncate(first, second, limit, rng)
    tokens = [cls, *first, sep, *second, sep] if second else [cls, *first, sep]
    return Sequence(tokens, len(first) + 2, label, excess)


def _random_lines(documents: list[list[Line]], index: int, target: int, rng: random.Random) -> Line:
    """`target` tokens or more, if there are as many, from anywhere in a document other than `index`."""
    other = rng.randrange(len(documents) - 1)
    document = documents[other + (other >= index)]
    tokens: Line = []
    for line in document[rng.randrange(len(document)) :]:
        tokens += line
        if len(tokens) >= target:
            break
    return tokens


def _truncate(first: Line, second: Line, limit: int, rng: random.Random) -> tuple[Line, Line]:
    """Shortens the longer one, token by token, each from a random end, until both fit in `limit`."""
    sizes = [len(first), len(second)]
    while sum(sizes) > limit:
        sizes[0 if sizes[0] > sizes[1] else 1] -= 1
    return _drop(first, sizes[0], rng), _drop(second, sizes[1], rng)


def _drop(line: Line, size: int, rng: random.Random) -> Line:
    excess = len(line) - size
    if not excess:
        return line
    front = rng.getrandbits(excess).bit_count()  # a fair coin for every token dropped
    return line[front : front + size]
