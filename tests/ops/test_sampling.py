"""Samples are those of the softmax, and follow from their random words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from bert_jax.ops.sampling import sample


def words(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.bits(jax.random.key(seed), (*shape, 2), jnp.uint32)


def counts(logits_V: jax.Array, count: int, *, seed: int = 0) -> np.ndarray:
    drawn = sample(jnp.broadcast_to(logits_V, (count, len(logits_V))), words(count, seed=seed))
    return np.bincount(np.asarray(drawn), minlength=len(logits_V))


@pytest.mark.long
def test_samples_have_the_probabilities_of_the_softmax():
    logits = jax.random.normal(jax.random.key(5), (50,)) * 2
    found = counts(logits, 40_000)
    expected = scipy.special.softmax(np.asarray(logits, np.float64))
    assert scipy.stats.chisquare(found, 40_000 * expected).pvalue > 0.01
    found = counts(jnp.zeros(256), 60_000, seed=1)
    assert scipy.stats.chisquare(found).pvalue > 0.01


def test_so_they_are_where_the_classes_fill_no_block():
    logits = jax.random.normal(jax.random.key(6), (300,)) * 2
    expected = 40_000 * scipy.special.softmax(np.asarray(logits, np.float64))
    found = counts(logits, 40_000, seed=2)
    often = expected >= 5  # what the test of chi-square is for
    found, expected = (np.append(x[often], x[~often].sum()) for x in (found, expected))
    assert scipy.stats.chisquare(found, expected).pvalue > 0.01


@pytest.mark.long
def test_a_class_that_cannot_be_is_never_drawn():
    never = jnp.finfo(jnp.float32).min / 2
    assert counts(jnp.array([0.0, never, -1.0]), 2000)[1] == 0
    logits = jnp.full(300, never).at[jnp.array([7, 131])].set(jnp.array([0.0, 1.0]))  # one block has none
    assert np.flatnonzero(counts(logits, 2000)).tolist() == [7, 131]


@pytest.mark.long
def test_a_sample_follows_from_its_own_words():
    logits, random = jnp.zeros((3, 4, 1000)), words(3, 4)
    drawn = sample(logits, random)
    np.testing.assert_array_equal(sample(logits[1:, :2], random[1:, :2]), drawn[1:, :2])
    assert len(np.unique(drawn)) > 9


def test_neighbouring_words_draw_independently():
    """As keys that count up would be."""
    count = 20_000
    for place in (0, 1):
        counting = jnp.zeros((count, 2), jnp.uint32).at[:, place].set(jnp.arange(count, dtype=jnp.uint32))
        drawn = np.asarray(sample(jnp.zeros((count, 16)), counting))
        pairs = np.bincount(drawn[:-1] * 16 + drawn[1:], minlength=256)
        assert scipy.stats.chisquare(pairs).pvalue > 1e-3
