"""Rows of like length in one batch, and batches as wide as their longest row needs: less padding.

A few widths, so that a step is compiled a few times. Hugging Face's trainer does so with dynamic padding and
`group_by_length`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

MOST_WIDTHS = 4
WORTH = 50
"""Batches that pay for the compilation of one more width."""
WINDOW = 32
"""Batches among which rows find others of their length: few enough that an epoch stays well mixed."""


def unit(sequence_length: int) -> int:
    """What widths are multiples of: kernels for long rows take 128 columns at a time."""
    return 128 if sequence_length >= 512 else 16


def widths(columns: int, *, batches: int) -> list[int]:
    """The widths of batches of rows with so many columns at most, ascending and as far apart as they can be.

    Args:
      batches: how many there are. Few of them have one width.
    """
    wanted = min(MOST_WIDTHS, 1 + batches // WORTH)
    step = -(-columns // (wanted * unit(columns))) * unit(columns)
    return [*range(step, columns, step), columns]


def lengths_of(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tokens of each row, [N]."""
    return arrays["segment_lengths"].sum(axis=(1, 2))


def widths_of(arrays: Mapping[str, np.ndarray], known: Sequence[int]) -> np.ndarray:
    """Which of the `known` widths each row needs, [N]."""
    return np.array(known)[np.searchsorted(known, lengths_of(arrays))]


def cut(array: np.ndarray, *, columns: int, of: int) -> np.ndarray:
    """The first columns of an array [N, S, ...] that has `of` of them; another one stays as it is."""
    return array[:, :columns] if array.ndim > 1 and array.shape[1] == of else array


def batch(arrays: Mapping[str, np.ndarray], records: np.ndarray, *, columns: int) -> dict[str, np.ndarray]:
    """These rows, so wide."""
    S = arrays["token_ids"].shape[1]
    return {name: cut(array[records], columns=columns, of=S) for name, array in arrays.items()}


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
