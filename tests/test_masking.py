"""Masking: the paper's proportions, the contract's limits, and randomness that is really random."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline import masking
from data_pipeline.config import MaskingConfig
from data_pipeline.instances import NO_LABEL

PAD, UNK, CLS, SEP, MASK = SPECIAL = [0, 1, 2, 3, 4]
VOCAB = 1000
B, S = 500, 128


def unpacked(lengths, labels=None, tokens=None, columns=S):
    """Rows of packed sequences of given (A, B) lengths, with [CLS] and [SEP] in place."""
    lengths = np.asarray(lengths, np.int32)
    labels = np.zeros(lengths.shape[:2], np.int32) if labels is None else np.asarray(labels, np.int32)
    if tokens is None:
        tokens = np.zeros((len(lengths), columns), np.int32)
        rng = np.random.default_rng(0)
        for row, sequences in enumerate(lengths):
            start = 0
            for first, second in sequences:
                tokens[row, start : start + first + second] = rng.integers(5, VOCAB, first + second)
                if first:
                    tokens[row, start] = CLS
                    tokens[row, start + first - 1] = SEP
                    tokens[row, start + first + second - 1] = SEP
                start += first + second
    return masking.unpack(tf.constant(tokens), tf.constant(lengths), tf.constant(labels))


def masked(rows, *, seed=0, positions=None, **config):
    positions = np.arange(len(rows["token_ids"])) if positions is None else positions
    result = masking.mask(
        rows,
        tf.constant(positions, tf.int64),
        config=MaskingConfig(**config),
        seed=seed,
        vocab_size=VOCAB,
        special_ids=SPECIAL,
    )
    return {name: np.asarray(value) for name, value in result.items()}


FULL = [[(S // 2, S // 2)]] * B


def test_unpacking_lays_out_packed_sequences_and_padding():
    rows = unpacked([[(3, 2), (4, 0), (0, 0)]], labels=[[1, NO_LABEL, 0]], columns=12)
    rows = {name: np.asarray(value)[0].tolist() for name, value in rows.items()}
    assert rows["segment_ids"] == [1] * 5 + [2] * 4 + [0] * 3
    assert rows["position_ids"] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]
    assert rows["token_type_ids"] == [0, 0, 0, 1, 1] + [0] * 7
    assert rows["cls_positions"] == [0, 5, 0]
    assert rows["nsp_labels"] == [1, 0, 0]
    assert rows["nsp_weights"] == [1.0, 0.0, 0.0]


def test_a_row_without_sequences_is_all_padding():
    batch = masked(unpacked([[(0, 0)]]), max_predictions=20)
    for name in ("segment_ids", "position_ids", "token_type_ids", "mlm_weights", "nsp_weights"):
        assert not batch[name].any(), name


def test_fifteen_percent_of_the_length_is_chosen_specials_counted():
    lengths = [[(n, n)] for n in range(2, 64)]
    batch = masked(unpacked(lengths), max_predictions=20)
    wanted = [min(20, max(1, round(0.15 * 2 * n))) for n in range(2, 64)]
    assert batch["mlm_weights"].sum(axis=1).tolist() == wanted


def test_the_cap_is_kept_and_a_row_without_candidates_predicts_nothing():
    assert masked(unpacked(FULL), max_predictions=7)["mlm_weights"].sum(axis=1).max() == 7
    only_specials = np.zeros((1, S), np.int32)
    only_specials[0, :3] = [CLS, UNK, SEP]
    rows = unpacked([[(3, 0)]], tokens=only_specials)
    assert masked(rows)["mlm_weights"].sum() == 0
    assert (masked(rows)["token_ids"] == only_specials).all()


def test_chosen_columns_are_distinct_in_order_and_never_special():
    rows = unpacked([[(40, 30), (30, 20)]] * B)
    batch = masked(rows, max_predictions=20)
    original = np.asarray(rows["token_ids"])
    for row in range(B):
        used = batch["mlm_weights"][row] > 0
        columns = batch["mlm_positions"][row][used]
        assert (np.diff(columns) > 0).all()
        assert (original[row, columns] == batch["mlm_targets"][row][used]).all()
        assert not np.isin(original[row, columns], SPECIAL).any()
        assert not batch["mlm_positions"][row][~used].any()
        assert not batch["mlm_targets"][row][~used].any()
        untouched = np.setdiff1d(np.arange(S), columns)
        assert (batch["token_ids"][row, untouched] == original[row, untouched]).all()


def test_eighty_ten_ten():
    batch = masked(unpacked(FULL * 8), positions=np.arange(8 * B), max_predictions=19)
    replaced = np.take_along_axis(batch["token_ids"], batch["mlm_positions"], axis=1)
    n = replaced.size
    shares = {
        "mask": (replaced == MASK).sum() / n,
        "kept": (replaced == batch["mlm_targets"]).sum() / n,
    }
    shares["random"] = 1 - shares["mask"] - shares["kept"]
    for name, expected in (("mask", 0.8), ("kept", 0.1 + 0.1 / 995), ("random", 0.1 - 0.1 / 995)):
        assert abs(shares[name] - expected) < 5 * (expected * (1 - expected) / n) ** 0.5, (name, shares)
    random_tokens = replaced[(replaced != MASK) & (replaced != batch["mlm_targets"])]
    assert not np.isin(random_tokens, SPECIAL).any()
    assert len(np.unique(random_tokens)) > 980  # of the 995 ordinary ones


@pytest.mark.parametrize(("mask", "random", "share"), [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)])
def test_the_split_is_what_the_config_says(mask, random, share):
    batch = masked(unpacked(FULL), mask_fraction=mask, random_fraction=random, max_predictions=19)
    replaced = np.take_along_axis(batch["token_ids"], batch["mlm_positions"], axis=1)
    assert abs((replaced == MASK).mean() - share) < 0.03
    if mask + random == 0:
        assert (replaced == batch["mlm_targets"]).all()


def test_every_column_is_chosen_equally_often():
    batch = masked(unpacked(FULL * 20), positions=np.arange(20 * B), max_predictions=19)
    counts = np.bincount(batch["mlm_positions"].ravel(), minlength=S)
    ordinary = np.setdiff1d(np.arange(S), [0, S // 2 - 1, S - 1])
    assert counts[[0, S // 2 - 1, S - 1]].sum() == 0
    expected = 19 / len(ordinary)
    deviation = (counts[ordinary] / (20 * B) - expected) / (expected * (1 - expected) / (20 * B)) ** 0.5
    assert np.abs(deviation).max() < 5
    assert 0.8 < deviation.std() < 1.2


def test_masks_depend_on_seed_and_position_and_on_nothing_else():
    rows = unpacked(FULL)
    size = {"max_predictions": 19}
    first = masked(rows, seed=1, **size)
    again = masked(rows, seed=1, **size)
    assert all((first[name] == again[name]).all() for name in first)
    part = {name: value[100:150] for name, value in rows.items()}
    piece = masked(part, seed=1, positions=np.arange(100, 150), **size)
    assert all((piece[name] == first[name][100:150]).all() for name in first)
    chosen = first["mlm_positions"]
    for other in ({"seed": 2}, {"seed": 1, "positions": np.arange(B) + B}):
        others = masked(rows, **other, **size)["mlm_positions"]
        shared = np.mean([len(np.intersect1d(a, b)) for a, b in zip(chosen, others, strict=True)])
        assert abs(shared - 19 * 19 / 125) < 0.5  # as many as chance gives


def test_the_hash_is_uniform_and_independent():
    hashes = [np.asarray(masking._hash(seed, tf.range(200, dtype=tf.int64), tf.range(S))) for seed in (0, 1)]
    for hashed in hashes:
        bits = (hashed[..., None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        n = hashed.size
        assert np.abs(bits.reshape(n, 64).mean(axis=0) - 0.5).max() < 5 * 0.5 / n**0.5
        uniform = hashed / 2.0**64
        neighbours = [
            (uniform[:, :-1], uniform[:, 1:]),
            (uniform[:-1], uniform[1:]),
            (uniform, hashes[1] / 2.0**64) if hashed is hashes[0] else (uniform[:, 2:], uniform[:, :-2]),
        ]
        for a, b in neighbours:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / n**0.5


def test_the_hash_is_splitmix64():
    """Against the same three lines in Python's own integers."""

    def mix(x):
        mask = 2**64 - 1
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    golden, wrap = 0x9E3779B97F4A7C15, 2**64
    expected = [
        [
            mix((mix((mix((7 + golden) % wrap) + p * golden) % wrap) + (c + 1) * golden) % wrap)
            for c in range(4)
        ]
        for p in (0, 3, 2**40)
    ]
    found = masking._hash(7, tf.constant([0, 3, 2**40], tf.int64), tf.range(4))
    assert np.asarray(found).tolist() == expected
