"""Losses over vectors, against plain loops in float64."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.ops import contrastive
from bert_jax.ops.pooling import normalized, pool

B, T, D = 9, 3, 5


def units(shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


IDS = np.array(
    [
        [0, 1, 2, -1],  # has one negative
        [0, 3, 4, 5],  # the same anchor, another positive
        [6, 1, 7, 8],  # the first one's positive
        [9, 10, 0, 11],  # the first one's anchor is its negative
        [12, 12, -1, -1],  # is its own positive
        [13, 14, 15, 16],  # weighs nothing
        [17, 7, 10, 14],  # texts of others
        [0, 1, 2, -1],  # the first one again, as at the end of an epoch
        [9, 18, -1, -1],  # an anchor again
    ]
)
WEIGHTS = np.array([1, 1, 2, 1, 1, 0, 1, 1, 1], np.float64)


def nll(cosines: list[float], own: float, *, temperature: float, margin: float | None) -> float:
    kept = [x for x in cosines if margin is None or x <= own - margin]
    return math.log(sum(math.exp(x / temperature) for x in [own, *kept])) - own / temperature


def plain_in_batch(
    anchors: np.ndarray, texts: np.ndarray, *, temperature: float, symmetric: bool, margin: float | None
) -> list[float]:
    """A text has the vector that it has where it is first; so has an anchor."""
    places, rows = {}, {}
    for j, t in np.ndindex(B, T):
        if WEIGHTS[j]:
            places.setdefault(IDS[j, 1 + t], (j, t))
            rows.setdefault(IDS[j, 0], j)
    losses = []
    for i, (anchor, positive, *_) in enumerate(IDS):
        others = [
            anchors[i] @ texts[j, t]
            for id, (j, t) in places.items()
            if id not in (-1, anchor, positive) and not (t == 0 and IDS[j, 0] == anchor)
        ]
        loss = nll(others, anchors[i] @ texts[i, 0], temperature=temperature, margin=margin)
        if symmetric:
            others = [
                anchors[j] @ texts[i, 0]
                for id, j in rows.items()
                if id not in (anchor, positive) and IDS[j, 1] != positive
            ]
            loss += nll(others, anchors[i] @ texts[i, 0], temperature=temperature, margin=margin)
            loss /= 2
        losses.append(loss)
    return losses


@pytest.mark.long
@pytest.mark.parametrize("margin", [None, 0.1])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_positive_among_the_texts_of_all_examples(symmetric: bool, margin: float | None):
    """But those that are no negatives: duplicates of anchor and positive, fillers, what is too close,
    and what was there before."""
    anchors, texts = units((B, D), 0), units((B, T, D), 1)
    how: dict[str, Any] = {"temperature": 0.2, "symmetric": symmetric, "margin": margin}
    scores = contrastive.scores(*map(jnp.float32, (anchors, texts)))
    found = contrastive.in_batch(scores, jnp.array(IDS), WEIGHTS, **how)
    np.testing.assert_allclose(found.nll_B, plain_in_batch(anchors, texts, **how), rtol=2e-5)


@pytest.mark.long
def test_a_gradient_is_that_of_the_plain_loss():
    anchors, texts = units((B, D), 0), units((B, T, D), 1)
    how: dict[str, Any] = {"temperature": 0.2, "symmetric": True, "margin": None}

    def loss(anchors: jax.Array) -> jax.Array:
        scores = contrastive.scores(anchors, jnp.float32(texts))
        return (contrastive.in_batch(scores, jnp.array(IDS), WEIGHTS, **how).nll_B * WEIGHTS).sum()

    found = jax.grad(loss)(jnp.float32(anchors))
    for place in np.ndindex(B, D):
        step = np.zeros_like(anchors)
        step[place] = 1e-6
        low, high = (
            np.dot(plain_in_batch(x, texts, **how), WEIGHTS) for x in (anchors - step, anchors + step)
        )
        assert found[place] == pytest.approx((high - low) / 2e-6, abs=1e-3)


def test_a_hit_is_a_positive_that_is_closest():
    scores_BxBxT = jnp.eye(2)[:, :, None]
    ids, weights = jnp.array([[0, 1], [2, 3]]), np.ones(2)
    right = contrastive.in_batch(scores_BxBxT, ids, weights, temperature=1.0)
    assert right.hit_B.tolist() == [1, 1]
    wrong = contrastive.in_batch(scores_BxBxT[::-1], ids, weights, temperature=1.0)
    assert wrong.hit_B.tolist() == [0, 0]


def test_what_the_margin_leaves_out_is_counted_and_is_no_hit():
    """The first anchor is closer to the second one's positive than to its own, the second to its own."""
    scores_BxBxT = jnp.array([[0.5, 0.6, 0.1], [0.0, 0.9, 0.1], [0.2, 0.3, 0.4]])[:, :, None]
    ids = jnp.array([[0, 1], [2, 3], [4, 5]])
    found = contrastive.in_batch(scores_BxBxT, ids, np.ones(3), temperature=1.0, margin=0.2)
    assert found.hit_B.tolist() == [0, 1, 1]
    assert found.left_out_B.tolist() == [0.5, 0, 0.5]
    alone = contrastive.in_batch(scores_BxBxT[:1, :1], ids[:1], np.ones(1), temperature=1.0, margin=0.2)
    assert (alone.nll_B.tolist(), alone.left_out_B.tolist()) == ([0], [0])


def test_pairs_in_the_order_of_their_scores():
    cosines, labels = np.array([0.1, 0.9, 0.3, 0.7]), np.array([0.0, 0.5, 1.0, 9.0])
    weights = np.array([1.0, 1.0, 1.0, 0.0])
    total = 1 + sum(
        math.exp((cosines[j] - cosines[i]) / 0.5) for i in range(3) for j in range(3) if labels[i] > labels[j]
    )
    found = contrastive.cosent(*map(jnp.float32, (cosines, labels, weights)), temperature=0.5)
    assert float(found) == pytest.approx(math.log(total), rel=1e-6)
    same = contrastive.cosent(jnp.float32(cosines), jnp.ones(4), jnp.ones(4), temperature=0.5)
    assert float(same) == 0, "nothing is before anything"


def test_differences_of_scores_as_the_teacher_has_them():
    anchors, texts = units((2, D), 0), units((2, 3, D), 1)
    margins, exists = np.array([[0.5, -1.0], [2.0, 0.0]]), np.array([[True, True], [True, False]])
    found_B, _ = contrastive.margin_mse(*map(jnp.float32, (anchors, texts, margins)), jnp.array(exists))
    for i in range(2):
        scores = texts[i] @ anchors[i]
        errors = [(scores[0] - scores[1 + n] - margins[i, n]) ** 2 for n in range(2) if exists[i, n]]
        assert found_B[i] == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_each_sequence_of_a_row_has_its_vector(how: Any):
    hidden = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    segment_ids = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 2]])
    found = pool(jnp.array(hidden), jnp.array(segment_ids), sequences=3, how=how)
    for row in range(2):
        for sequence in (1, 2):
            own = hidden[row][segment_ids[row] == sequence]
            expected = {"mean": own.mean(axis=0), "cls": own[0], "last": own[-1]}[how]
            np.testing.assert_allclose(found[row, sequence - 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 2], 0)


def test_a_vector_of_nothing_stays_nothing():
    np.testing.assert_array_equal(normalized(jnp.zeros((2, 3))), 0)
    assert np.isfinite(jax.grad(lambda x: normalized(x).sum())(jnp.zeros(3))).all()
    np.testing.assert_allclose(normalized(jnp.array([3.0, 4.0])), [0.6, 0.8])
