"""Attention: the formula, and walls between packed sequences that let exactly nothing through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config, DataConfig, MaskingConfig
from bert_jax.ops.attention import attention, choose, splash
from tests.helpers.configs import replace

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


def test_splash_is_the_plain_form_within_segments():
    """Outputs and gradients; the kernel's steps run one by one here, at the one block it takes at least."""
    r = np.random.default_rng(0)
    shape = (2, 128, 2, 64)
    query, key, value, weight = (jnp.asarray(r.normal(size=shape), jnp.float32) for _ in range(4))
    segments = np.repeat(np.array([[1, 2, 3, 0], [1, 1, 1, 1]], np.int32), 32, axis=1)

    def plain(*qkv):
        return attention(*qkv, segment_ids_BxS=jnp.asarray(segments))

    def fast(*qkv):
        return splash(*qkv, segment_ids_BxS=jnp.asarray(segments), interpret=True)

    np.testing.assert_allclose(fast(query, key, value), plain(query, key, value), atol=1e-5)
    gradients = [
        jax.grad(lambda *qkv, f=f: (f(*qkv) * weight).sum(), argnums=(0, 1, 2))(query, key, value)
        for f in (fast, plain)
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("platform", "changes", "expected"),
    [
        ("cpu", {}, "xla"),
        ("tpu", {}, "splash"),
        ("tpu", {"model__attention_probs_dropout_prob": 0.1}, "xla"),
        ("tpu", {"data__sequence_length": 128}, "xla"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"model__dtype": "float32"}, "xla"),
        ("gpu", {"model__attention_probs_dropout_prob": 0.1}, "xla"),
        ("gpu", {"data__max_sequences_per_row": 4}, "xla"),
        ("gpu", {"model__attention": "xla"}, "xla"),
    ],
)
def test_auto_picks_what_can_do_what_is_asked(platform: str, changes: dict, expected: str):
    able = {"model__dtype": "bfloat16", "model__attention_probs_dropout_prob": 0.0}
    data = DataConfig(sequence_length=512, masking=MaskingConfig(max_predictions=77))
    config = replace(Config(data=data), **able | changes)
    assert choose(config, platform=platform).model.attention == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__attention": "splash"},
            r"'splash' has no dropout, but model\.attention_probs_dropout_prob is 0\.1",
        ),
        ({"model__attention": "cudnn"}, "'cudnn' has no dropout"),
    ],
)
def test_a_kernel_that_cannot_do_it_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(Config(), **changes)


def test_kernels_say_which_rows_they_take():
    config = replace(Config(), model__attention_probs_dropout_prob=0.0, model__dtype="bfloat16")
    with pytest.raises(ValueError, match=r"multiples of 128, not data\.sequence_length 96"):
        replace(replace(config, data__sequence_length=96), model__attention="splash")
    with pytest.raises(ValueError, match=r"one sequence a row, but data\.max_sequences_per_row is 3"):
        replace(replace(config, data__max_sequences_per_row=3), model__attention="cudnn")
    with pytest.raises(ValueError, match=r"computes in bfloat16, but model\.dtype is 'float32'"):
        replace(replace(config, model__dtype="float32"), model__attention="cudnn")
