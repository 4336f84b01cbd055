"""Rows of like length in one batch: an order that is a function of the seed, and a few widths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from bert_jax.finetuning import lengths

WIDTHS = np.random.default_rng(0).choice([32, 64, 96, 128], 1000)


def stream(*, seed: int, batch_size: int, epochs: int = 3) -> np.ndarray:
    of_epochs = [
        lengths.shuffled(WIDTHS, epoch=epoch, batch_size=batch_size, seed=seed) for epoch in range(epochs)
    ]
    return np.concatenate(of_epochs)


@pytest.mark.parametrize("batch_size", [16, 96, 1500])
def test_each_epoch_has_each_row_once(batch_size: int):
    for epoch in stream(seed=0, batch_size=batch_size).reshape(3, -1):
        assert sorted(epoch) == list(range(1000))


def test_the_order_is_another_one_in_each_epoch_and_for_each_seed():
    first, second, third = stream(seed=0, batch_size=16).reshape(3, -1)
    other = stream(seed=1, batch_size=16).reshape(3, -1)[0]
    assert (first == stream(seed=0, batch_size=16)[:1000]).all()
    assert not any((first == order).all() for order in (second, third, other))


def test_nearly_all_batches_are_of_one_width_and_their_widths_are_mixed():
    batches = WIDTHS[stream(seed=0, batch_size=16)][: 187 * 16].reshape(187, 16)
    mixed = (batches.max(axis=1) > batches.min(axis=1)).sum()
    # In each epoch two windows with three changes of width, and a batch with rows of two epochs.
    assert mixed <= 3 * 2 * 3 + 2
    widest = batches.max(axis=1)
    assert np.corrcoef(widest[:-1], widest[1:])[0, 1] < 0.3


def test_each_epoch_has_other_batches():
    first, second = (
        {frozenset(batch) for batch in epoch[:992].reshape(-1, 16).tolist()}
        for epoch in stream(seed=0, batch_size=16).reshape(3, -1)[:2]
    )
    assert not first & second


@pytest.mark.parametrize(
    ("longest", "columns", "batches", "expected"),
    [
        (8, 8, 1000, [8]),
        (64, 64, 1000, [16, 32, 48, 64]),
        (64, 64, 30, [64]),
        (64, 64, 60, [32, 64]),
        (108, 108, 1000, [24, 48, 80, 108]),
        (384, 384, 1000, [96, 192, 288, 384]),
        (512, 512, 1000, [128, 256, 384, 512]),
        (640, 640, 1000, [128, 256, 512, 640]),
        (60, 384, 1000, [16, 40, 64, 384]),
    ],
)
def test_there_are_four_widths_at_most_and_long_ones_suit_the_kernels(
    longest: int, columns: int, batches: int, expected: list[int]
):
    rows = np.arange(1, longest + 1)
    assert lengths.widths(rows, columns=columns, batches=batches) == expected


@pytest.mark.parametrize("batches", [20, 200, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_widths_cost_less(seed: int, batches: int):
    """Columns of all batches in full ones, and what a compilation counts as: against all sets of widths."""
    random = np.random.default_rng(seed)
    rows = np.clip(random.normal(random.integers(20, 100), 15, 500), 3, 120).astype(int)

    def cost(widths: Sequence[int]) -> float:
        return batches * np.mean(lengths.fitting(rows, widths)) / 120 + lengths.WORTH * len(widths)

    sets = itertools.chain.from_iterable(itertools.combinations(range(8, 120, 8), n) for n in range(4))
    found = lengths.widths(rows, columns=120, batches=batches)
    assert cost(found) == pytest.approx(min(cost([*some, 120]) for some in sets))


def test_a_batch_is_cut_to_its_width():
    arrays = {
        "token_ids": np.arange(4 * 64).reshape(4, 64),
        "segment_lengths": np.array([[[10, 0]], [[20, 13]], [[64, 0]], [[5, 0]]]),
        "labels": np.arange(4),
    }
    assert lengths.fitting(lengths.lengths_of(arrays), [16, 48, 64]).tolist() == [16, 48, 64, 16]
    found = lengths.batch(arrays, np.array([3, 1]), columns=48)
    assert found["token_ids"].tolist() == arrays["token_ids"][[3, 1], :48].tolist()
    assert found["labels"].tolist() == [3, 1]
