"""Sequences to rows of S tokens, at most P sequences a row."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from data_pipeline.instances import Sequence

Row = list[Sequence]


def pack(sequences: Iterable[Sequence], *, sequence_length: int, max_sequences: int) -> list[Row]:
    """Rows that hold every sequence once, in a fixed order.

    A row takes the longest sequence that is left, then again and again the longest one that fits (first-fit
    decreasing, row by row). That leaves the short ones for the end, where rows of P of them would be half
    empty. So while nearly as many sequences are left as full rows have places for, the middle of a row
    takes the shortest ones.
    """
    if max_sequences == 1:
        return [[sequence] for sequence in sequences]
    left = sorted(sequences, key=_length)
    tokens = sum(map(_length, left))
    rows: list[Row] = []
    while left:
        row: Row = []
        free = sequence_length
        while left and len(row) < max_sequences and _length(left[0]) <= free:
            places = max_sequences * tokens / sequence_length
            if 0 < len(row) < max_sequences - 1 and len(left) > 0.9 * places:
                place = 0
            else:
                place = bisect.bisect_right(left, free, key=_length) - 1
            sequence = left.pop(place)
            row.append(sequence)
            free -= _length(sequence)
            tokens -= _length(sequence)
        assert row, "a sequence is longer than a row"
        rows.append(row)
    return rows


def _length(sequence: Sequence) -> int:
    return len(sequence.token_ids)
