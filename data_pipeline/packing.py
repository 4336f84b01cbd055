"""Sequences to rows of S tokens: best fit, longest first, at most P sequences a row."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from data_pipeline.instances import Sequence

Row = list[Sequence]


def pack(sequences: Iterable[Sequence], *, sequence_length: int, max_sequences: int) -> list[Row]:
    """Rows that hold every sequence once, in a fixed order.

    Each sequence, longest first, goes to the row in which it leaves the least space (best-fit decreasing).
    """
    sequences = list(sequences)
    if max_sequences == 1:
        return [[sequence] for sequence in sequences]
    rows: list[Row] = []
    open_rows: list[tuple[int, int]] = []  # (free tokens, index of the row), sorted
    for sequence in sorted(sequences, key=lambda sequence: -len(sequence.token_ids)):
        size = len(sequence.token_ids)
        assert size <= sequence_length
        place = bisect.bisect_left(open_rows, (size, -1))
        if place == len(open_rows):
            free, row = sequence_length, len(rows)
            rows.append([])
        else:
            free, row = open_rows.pop(place)
        rows[row].append(sequence)
        if len(rows[row]) < max_sequences and free > size:
            bisect.insort(open_rows, (free - size, row))
    return rows
