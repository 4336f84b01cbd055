"""Attention: the formula, and walls between packed sequences that let exactly nothing through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.attention import attention

pytestmark = pytest.mark.usefixtures("strict_dtypes")

B, S, H, E = 2, 12, 3, 8
SEGMENTS = np.array([[1] * 4 + [2] * 5 + [0] * 3, [1] * 12], np.int32)


@pytest.fixture
def qkv() -> list[jax.Array]:
    return [jax.random.normal(jax.random.key(i), (B, S, H, E)) for i in range(3)]


def reference(query, key, value, segments) -> np.ndarray:
    """Vaswani et al. (2017), equation 1, a loop a query, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros_like(query)
    for b, q, h in np.ndindex(B, S, H):
        visible = np.flatnonzero(segments[b] == segments[b, q])
        logits = key[b, visible, h] @ query[b, q, h] / np.sqrt(E)
        probs = np.exp(logits - logits.max())
        out[b, q, h] = probs / probs.sum() @ value[b, visible, h]
    return out


def test_it_is_the_formula_within_each_segment(qkv):
    found = attention(*qkv, segment_ids_BxS=jnp.asarray(SEGMENTS))
    np.testing.assert_allclose(found, reference(*qkv, SEGMENTS), atol=2e-6)


def test_bfloat16_is_near(qkv):
    low = [x.astype(jnp.bfloat16) for x in qkv]
    found = attention(*low, segment_ids_BxS=jnp.asarray(SEGMENTS))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), reference(*qkv, SEGMENTS), atol=0.03)


def test_gradients_between_segments_are_exactly_zero(qkv):
    """Of every output to every input, packed neighbours and padding alike."""

    def outputs(query, key, value):
        return attention(query, key, value, segment_ids_BxS=jnp.asarray(SEGMENTS)).sum(axis=(2, 3))

    for jacobian in jax.jacrev(outputs, argnums=(0, 1, 2))(*qkv):
        strength = np.abs(np.asarray(jacobian)).sum(axis=(4, 5))  # [b, q, b', k]
        for b, q, c, k in np.ndindex(B, S, B, S):
            if b != c or SEGMENTS[b, q] != SEGMENTS[b, k]:
                assert strength[b, q, c, k] == 0.0
    within = np.abs(np.asarray(jax.jacrev(outputs, argnums=2)(*qkv))).sum(axis=(4, 5))
    assert within[0, 0, 0, 3] > 0


def keys_of(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), B)


def test_attention_drops_probabilities(qkv):
    segments = jnp.asarray(SEGMENTS)
    plain = attention(*qkv, segment_ids_BxS=segments, dropout_rate=0.5)
    one = attention(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys_of(0))
    same = attention(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys_of(0))
    other = attention(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys_of(1))
    assert (one == same).all()
    assert (one != other).any()
    keys = jax.random.split(jax.random.key(0), (4000, B))
    mean = jax.vmap(
        lambda keys: attention(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys)
    )(keys).mean(axis=0)
    np.testing.assert_allclose(mean, plain, atol=0.15)
