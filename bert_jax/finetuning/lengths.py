"""Rows of like length in one batch, and batches as wide as their longest row needs: less padding.

A few widths, so that a step is compiled a few times. Hugging Face's trainer does so with dynamic padding and
`group_by_length`.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST_WIDTHS = 4
WORTH = 10
"""Batches of full width that one more width must save, to pay for its compilation."""
WINDOW = 32
"""Batches among which rows find others of their length: few enough that an epoch stays well mixed."""


def unit(sequence_length: int) -> int:
    """What widths are multiples of: kernels for long rows take 128 columns at a time."""
    return 128 if sequence_length >= 512 else 8


def columns_for(tokens: int, *, most: int) -> int:
    """The narrowest row for so many tokens, among rows of at most `most` columns."""
    return min(most, -(-tokens // unit(most)) * unit(most))


def widths(lengths_N: np.ndarray, *, columns: int, batches: int) -> list[int]:
    """The widths of batches of such rows, ascending up to `columns`: those that leave the least padding.

    Args:
      lengths_N: tokens of each row.
      columns: of a row at most.
      batches: how many there are. Few of them have one width.
    """
    ends = np.array([*range(unit(columns), columns, unit(columns)), columns])
    rows = np.searchsorted(np.sort(lengths_N), ends, side="right") / len(lengths_N)
    # For each end the columns of all rows up to there, as a part of the full width, and the widths they have:
    # with one width, and then with one more than before, the last but one at the best of the ends before it.
    best: list[tuple[float, tuple[int, ...]]]
    best = [(part * end / columns, (int(end),)) for part, end in zip(rows, ends, strict=True)]
    chosen, least = best[-1][1], batches * best[-1][0]
    for more in range(1, min(MOST_WIDTHS, len(ends))):
        fewer, best = best, [(np.inf, ())]
        for i in range(1, len(ends)):
            with_one_more = (
                (used + (rows[i] - rows[j]) * ends[i] / columns, (*before, int(ends[i])))
                for j, (used, before) in enumerate(fewer[:i])
            )
            best.append(min(with_one_more))
        if (cost := batches * best[-1][0] + more * WORTH) < least:
            chosen, least = best[-1][1], cost
    return list(chosen)


def lengths_of(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tokens of each row, [N]."""
    return arrays["segment_lengths"].sum(axis=(1, 2))


def fitting(lengths_N: np.ndarray, known: Sequence[int]) -> np.ndarray:
    """The smallest of the `known` widths that holds each row, [N]."""
    return np.array(known)[np.searchsorted(known, lengths_N)]


def cut(array: np.ndarray, *, columns: int, of: int) -> np.ndarray:
    """The first columns of an array [N, S, ...] that has `of` of them; another one stays as it is."""
    return array[:, :columns] if array.ndim > 1 and array.shape[1] == of else array


def batch(arrays: Mapping[str, np.ndarray], records: np.ndarray, *, columns: int) -> dict[str, np.ndarray]:
    """These rows, so wide."""
    S = arrays["token_ids"].shape[1]
    return {name: cut(array[records], columns=columns, of=S) for name, array in arrays.items()}


@dataclass(frozen=True, eq=False)
class Layout(abc.ABC):
    """How the rows of a task become batches with little padding: one way is a subclass."""

    arrays: Mapping[str, np.ndarray]
    """token_ids, segment_lengths and others, as in `Features`."""
    columns: int
    """Of a row at most."""
    batches: int
    """How many there are."""
    batch_size: int
    seed: int

    @property
    @abc.abstractmethod
    def known(self) -> list[int]:
        """The widths that batches have, ascending up to `columns`."""

    @abc.abstractmethod
    def order(self, epoch: int) -> np.ndarray:
        """All rows, in an order that is a function of seed and epoch."""

    @abc.abstractmethod
    def batch(self, records: np.ndarray, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Some rows of the batch of these records."""


class ByLength(Layout):
    """Rows of like length in one batch, which is as wide as the longest of them needs."""

    @functools.cached_property
    def known(self) -> list[int]:
        return widths(lengths_of(self.arrays), columns=self.columns, batches=self.batches)

    @functools.cached_property
    def _widths_N(self) -> np.ndarray:
        return fitting(lengths_of(self.arrays), self.known)

    def order(self, epoch: int) -> np.ndarray:
        return shuffled(self._widths_N, epoch=epoch, batch_size=self.batch_size, seed=self.seed)

    def batch(self, records: np.ndarray, rows: Sequence[int]) -> dict[str, np.ndarray]:
        return batch(self.arrays, records[list(rows)], columns=int(self._widths_N[records].max()))


def shuffled(widths_N: np.ndarray, *, epoch: int, batch_size: int, seed: int) -> np.ndarray:
    """The rows of an epoch in an order that is a function of the arguments: batches of like rows, mixed.

    Rows of one width stay as they are drawn, so that each epoch has other batches. Epochs follow each other
    without a gap: a batch that has rows of two of them keeps its rows as they come.

    Args:
      widths_N: the number of columns that each row needs, of `widths`.
    """
    random = np.random.default_rng([seed, epoch])
    count = len(widths_N)
    order = random.permutation(count)
    first = min(-epoch * count % batch_size, count)
    last = count - (count - first) % batch_size
    for start in range(first, last, WINDOW * batch_size):
        window = order[start : min(start + WINDOW * batch_size, last)]
        by_width = window[np.argsort(widths_N[window], kind="stable")]
        window[:] = random.permutation(by_width.reshape(-1, batch_size)).reshape(-1)
    return order
