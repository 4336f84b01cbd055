"""Attention: the formula, and walls between packed sequences that let exactly nothing through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config, MaskingConfig
from bert_jax.ops.attention import select_kernel, splash, xla
from bert_jax.ops.attention.kernel import Request
from bert_jax.parallel.platform import Platform
from data_pipeline.errors import UserError
from tests.helpers.configs import replace, spec_of

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
        seen = np.flatnonzero(segments[b] == segments[b, q])
        logits = key[b, seen, h] @ query[b, q, h] / np.sqrt(E)
        probs = np.exp(logits - logits.max())
        out[b, q, h] = probs / probs.sum() @ value[b, seen, h]
    return out


def attention(*qkv, segment_ids_BxS, dropout_rate=0.0, dropout_keys=None) -> jax.Array:
    return xla.apply(
        *qkv, segment_ids_BxS=segment_ids_BxS, dropout_rate=dropout_rate, dropout_keys=dropout_keys
    )


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
        return splash.apply(*qkv, segment_ids_BxS=jnp.asarray(segments), interpret=True)

    np.testing.assert_allclose(fast(query, key, value), plain(query, key, value), atol=1e-5)
    gradients = [
        jax.grad(lambda *qkv, f=f: (f(*qkv) * weight).sum(), argnums=(0, 1, 2))(query, key, value)
        for f in (fast, plain)
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


CPU = Request(
    platform="cpu",
    capability=None,
    dtype="bfloat16",
    sequence_length=512,
    head_dim=64,
    dropout=False,
    packed=False,
)
TPU, H100 = CPU._replace(platform="tpu"), CPU._replace(platform="cuda", capability=9.0)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (CPU, "xla"),
        (TPU, "splash"),
        (TPU._replace(packed=True), "splash"),
        (TPU._replace(dropout=True), "xla"),
        (TPU._replace(sequence_length=128), "xla"),
        (TPU._replace(sequence_length=600), "xla"),
        (H100, "cudnn"),
        (H100._replace(capability=8.0, sequence_length=128), "cudnn"),
        (H100._replace(capability=7.5), "xla"),
        (H100._replace(dtype="float32"), "xla"),
        (H100._replace(dropout=True), "xla"),
        (H100._replace(packed=True), "xla"),
        (H100._replace(head_dim=12), "xla"),
        (H100._replace(head_dim=256), "xla"),
        (H100._replace(platform="rocm", capability=None), "xla"),
    ],
)
def test_auto_is_the_first_that_can_do_what_is_asked(request_: Request, expected: str):
    assert expected == select_kernel("auto", request_).NAME


@pytest.mark.parametrize(
    ("asked", "request_", "message"),
    [
        ("splash", CPU, "'splash' is for TPUs; use another one, or auto"),
        ("splash", TPU._replace(dropout=True), r"has no dropout .*model\.attention_probs_dropout_prob"),
        ("splash", TPU._replace(sequence_length=96), r"not of 96 \(data\.sequence_length\)"),
        ("cudnn", TPU, "is for NVIDIA GPUs"),
        ("cudnn", H100._replace(capability=7.0), r"8\.0 \(Ampere\) or later, and this GPU has 7\.0"),
        ("cudnn", H100._replace(packed=True), r"one sequence a row here \(data\.max_sequences_per_row\)"),
        ("cudnn", H100._replace(dtype="float32"), r"in bfloat16, not in float32 \(model\.dtype\)"),
        ("cudnn", H100._replace(head_dim=20), "multiples of 8 up to 128, not of 20"),
        ("flash", CPU, r"model\.attention is 'flash'; there are auto, splash, cudnn, xla"),
    ],
)
def test_a_kernel_that_cannot_do_it_says_why(asked: str, request_: Request, message: str):
    with pytest.raises(UserError, match=message):
        select_kernel(asked, request_)


def test_a_run_asks_for_what_its_config_needs(config: Config):
    spec = spec_of(config)
    assert spec.kernel is xla
    assert spec.config.model.attention == "auto", "what was chosen is not stored as if it had been asked for"
    long = replace(
        config,
        model__max_position_embeddings=512,
        model__attention_probs_dropout_prob=0.0,
        data__sequence_length=512,
        data__masking=MaskingConfig(max_predictions=77),
    )
    assert spec_of(long, platform=Platform("tpu")).kernel is splash
    assert spec_of(long, platform=Platform("cuda", 9.0)).kernel is xla, "rows are packed, and it is float32"
    with pytest.raises(UserError, match="'cudnn' is for NVIDIA GPUs"):
        spec_of(replace(long, model__attention="cudnn"))
