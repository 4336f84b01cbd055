"""Texts dealt out anew: each is there once with its tokens, and rows are about as long."""

from __future__ import annotations

import numpy as np
import pytest

from bert_jax.finetuning.balance import Balanced, deal
from data_pipeline.batch import unpack

N, P, S = 100, 3, 64


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Rows of one to three texts of 2 to 20 tokens; each text has ids of its own."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 21, (N, P)) * (np.arange(P) < random.integers(1, P + 1, (N, 1)))
    token_ids = np.zeros((N, S), np.int32)
    for n in range(N):
        ids = np.repeat(1 + n * P + np.arange(P), lengths[n])
        token_ids[n, : len(ids)] = ids
    return {
        "token_ids": token_ids,
        "segment_lengths": np.stack([lengths, 0 * lengths], axis=2).astype(np.int32),
        "weights": np.arange(N, dtype=np.float32),
    }


def balanced(
    arrays: dict[str, np.ndarray], *, seed: int = 0, batch_size: int = 16, batches: int = 6
) -> Balanced:
    return Balanced(arrays, columns=S, batches=batches, batch_size=batch_size, seed=seed)


@pytest.mark.parametrize("batch_size", [1, 2, 16, 90])
def test_each_text_is_where_its_place_says(arrays: dict[str, np.ndarray], batch_size: int):
    layout = balanced(arrays, batch_size=batch_size)
    records = layout.order(0)[:batch_size]
    batch = layout.batch(records, range(batch_size))
    assert batch["weights"].tolist() == records.tolist()
    found = unpack(batch)
    assert sorted(batch["text_places"].ravel()) == list(range(batch_size * P))
    for record, places in zip(records, batch["text_places"], strict=True):
        for text, place in enumerate(places):
            row, slot = divmod(int(place), P)
            own = found["segment_ids"][row] == slot + 1
            size = int(arrays["segment_lengths"][record, text].sum())
            assert batch["token_ids"][row][own].tolist() == [1 + record * P + text] * size


def test_rows_are_about_as_long(arrays: dict[str, np.ndarray]):
    layout = balanced(arrays)
    for first in range(0, 96, 16):
        records = layout.order(0)[first : first + 16]
        before = arrays["segment_lengths"][records].sum(axis=(1, 2))
        after = layout.batch(records, range(16))["segment_lengths"].sum(axis=(1, 2))
        assert after.sum() == before.sum()
        assert after.max() < before.mean() + 5 < before.max()


def test_batches_are_as_wide_as_balanced_rows_need(arrays: dict[str, np.ndarray]):
    layout = balanced(arrays)
    assert layout.known == [32, S], "64 if another epoch has a batch that needs it"
    assert layout.batch(layout.order(0)[:16], range(16))["token_ids"].shape == (16, 32)
    longest = np.argsort(-arrays["segment_lengths"].sum(axis=(1, 2)))[:16]
    assert layout.batch(longest, range(16))["token_ids"].shape == (16, S)


def test_each_process_has_its_rows_of_the_same_batch(arrays: dict[str, np.ndarray]):
    layout = balanced(arrays)
    records = layout.order(1)[:16]
    whole, part = layout.batch(records, range(16)), layout.batch(records, range(4, 12))
    for name, array in whole.items():
        assert part[name].tolist() == array[4:12].tolist()


def test_the_order_is_another_one_in_each_epoch_and_for_each_seed(arrays: dict[str, np.ndarray]):
    orders = [balanced(arrays, seed=seed).order(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert balanced(arrays).order(1).tolist() == orders[1].tolist()


def test_more_rows_in_a_batch_than_there_are_examples(arrays: dict[str, np.ndarray]):
    """Those of two epochs, and some twice."""
    layout = balanced(arrays, batch_size=250)
    records = np.concatenate([layout.order(epoch) for epoch in range(3)])[:250]
    assert layout.batch(records, range(250))["text_places"].shape == (250, P)


def test_the_longest_texts_go_first_each_to_the_emptiest_row():
    assert deal(np.array([[9, 8], [3, 1]])).tolist() == [[0, 2], [3, 1]]


@pytest.mark.parametrize("seed", range(20))
def test_no_batch_has_a_longer_row_than_it_came_with(seed: int):
    lengths = np.random.default_rng(seed).choice([1, 2, 5, 9], (3, 4))
    rows = deal(lengths) // 4
    assert np.bincount(rows.ravel(), lengths.ravel()).max() <= lengths.sum(axis=1).max()


def test_texts_that_lie_well_stay():
    assert deal(np.array([[9, 1], [8, 2]])).tolist() == [[0, 1], [2, 3]]
