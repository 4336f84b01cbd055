"""Attention: the formula, and walls between packed sequences that let exactly nothing through."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config, MaskingConfig
from bert_jax.ops.attention import attention, block_local, cudnn, select_kernel, splash, xla
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


def reference(query, key, value, segments, window=None) -> np.ndarray:
    """Vaswani et al. (2017), equation 1, a loop a query, in float64; zero at padding."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros_like(query)
    for b, q, h in np.ndindex(B, S, H):
        near = np.abs(np.arange(S) - q) <= (S if window is None else window)
        seen = np.flatnonzero((segments[b] == segments[b, q]) & near & (segments[b] > 0))
        if len(seen):
            logits = key[b, seen, h] @ query[b, q, h] / np.sqrt(E)
            probs = np.exp(logits - logits.max())
            out[b, q, h] = probs / probs.sum() @ value[b, seen, h]
    return out


def plain(*qkv, **arguments) -> jax.Array:
    return attention(xla, *qkv, **arguments)


WINDOWED = [(xla, None), (xla, 3), *((block_local, window) for window in (1, 2, 3, 5, 12, 20))]


@pytest.mark.long
@pytest.mark.parametrize(("kernel", "window"), WINDOWED)
def test_it_is_the_formula_within_each_segment_and_window(qkv, kernel, window):
    found = attention(kernel, *qkv, segment_ids_BxS=jnp.asarray(SEGMENTS), window=window)
    np.testing.assert_allclose(found, reference(*qkv, SEGMENTS, window), atol=2e-6)


def test_bfloat16_is_near(qkv):
    low = [x.astype(jnp.bfloat16) for x in qkv]
    found = plain(*low, segment_ids_BxS=jnp.asarray(SEGMENTS))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), reference(*qkv, SEGMENTS), atol=0.03)


@pytest.mark.long
@pytest.mark.parametrize(("kernel", "window"), [(xla, None), (xla, 2), (block_local, 2)])
def test_gradients_to_what_is_not_seen_are_exactly_zero(qkv, kernel, window):
    """Of every output to every input: packed neighbours, padding, and what is too far away."""

    def outputs(query, key, value):
        segments = jnp.asarray(SEGMENTS)
        return attention(kernel, query, key, value, segment_ids_BxS=segments, window=window).sum(axis=(2, 3))

    for jacobian in jax.jacrev(outputs, argnums=(0, 1, 2))(*qkv):
        strength = np.abs(np.asarray(jacobian)).sum(axis=(4, 5))  # [b, q, b', k]
        for b, q, c, k in np.ndindex(B, S, B, S):
            far = window is not None and abs(q - k) > window
            if b != c or SEGMENTS[b, q] != SEGMENTS[b, k] or SEGMENTS[b, q] == 0 or far:
                assert strength[b, q, c, k] == 0.0
    within = np.abs(np.asarray(jax.jacrev(outputs, argnums=2)(*qkv))).sum(axis=(4, 5))
    assert within[0, 0, 0, 2] > 0


def keys_of(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), B)


def mean_over(keys: jax.Array, apply: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return jax.jit(lambda keys: jax.lax.map(apply, keys, batch_size=100).mean(axis=0))(keys)


@pytest.mark.long
def test_attention_drops_probabilities(qkv):
    segments = jnp.asarray(SEGMENTS)
    undropped = plain(*qkv, segment_ids_BxS=segments, dropout_rate=0.5)
    one = plain(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys_of(0))
    same = plain(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys_of(0))
    other = plain(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys_of(1))
    assert (one == same).all()
    assert (one != other).any()
    keys = jax.random.split(jax.random.key(0), (1000, B))
    mean = mean_over(
        keys, lambda keys: plain(*qkv, segment_ids_BxS=segments, dropout_rate=0.5, dropout_keys=keys)
    )
    np.testing.assert_allclose(mean, undropped, atol=0.2)


@pytest.mark.long
def test_a_block_of_a_window_drops_probabilities_too(qkv):
    arguments = {"segment_ids_BxS": jnp.asarray(SEGMENTS), "window": 3, "dropout_rate": 0.5}
    keys = jax.random.split(jax.random.key(0), (1000, B))
    mean = mean_over(keys, lambda keys: attention(block_local, *qkv, dropout_keys=keys, **arguments))
    np.testing.assert_allclose(mean, attention(block_local, *qkv, **arguments), atol=0.2)


FAST = [
    ("splash", functools.partial(splash.apply, interpret=True), None),
    ("splash", functools.partial(splash.apply, interpret=True), 20),
    ("block_local", block_local.apply, 20),
    ("block_local", block_local.apply, 64),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "apply", "window"), FAST)
def test_fast_kernels_are_the_plain_form(name: str, apply, window: int | None):
    """Outputs and gradients at tokens; splash's steps run one by one here, at the smallest block it takes."""
    r = np.random.default_rng(0)
    query, key, value, weight = (jnp.asarray(r.normal(size=(2, 128, 2, 64)), jnp.float32) for _ in range(4))
    segments = jnp.asarray(np.repeat(np.array([[1, 2, 3, 0], [1, 1, 1, 1]], np.int32), 32, axis=1))

    def of(apply):
        def total(*qkv):
            found = apply(*qkv, segment_ids_BxS=segments, window=window)
            found = jnp.where((segments > 0)[:, :, None, None], found, 0)
            return (found * weight).sum(), found

        (_, found), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(query, key, value)
        return found, gradients

    found, gradients = of(apply)
    expected, expected_gradients = of(xla.apply)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_window_costs_its_width_and_not_the_row():
    """Bytes and products of the compiled forward and backward pass, at 2,048 columns."""
    shape = jax.ShapeDtypeStruct((1, 2048, 2, 64), jnp.float32)
    segments = jnp.ones((1, 2048), jnp.int32)

    def cost(kernel) -> tuple[float, float]:
        def total(*qkv):
            return attention(kernel, *qkv, segment_ids_BxS=segments, window=64).sum()

        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(shape, shape, shape).compile()
        return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes

    dense, local = cost(xla), cost(block_local)
    assert local[0] < dense[0] / 8
    assert local[1] < dense[1] / 5


def test_cudnn_gets_first_column_and_length_of_each_segment():
    """As JAX documents q_offsets and q_seqlen of packed rows."""
    lengths, offsets = cudnn.segments(jnp.asarray(SEGMENTS), max_segments=3)
    assert lengths.tolist() == [[4, 5, -1], [12, -1, -1]]
    assert offsets.tolist() == [[0, 4, -1, -1], [0, -1, -1, -1]]
    lengths, offsets = cudnn.segments(jnp.asarray([[1, 1, 0], [0, 0, 0]]), max_segments=1)
    assert (lengths.tolist(), offsets) == ([2, 0], None)
    assert lengths.dtype == jnp.int32


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
        (H100._replace(packed=True), "cudnn"),
        (H100._replace(packed=True, capability=8.0), "xla"),
        (H100._replace(head_dim=12), "xla"),
        (H100._replace(head_dim=256), "cudnn"),
        (H100._replace(head_dim=256, capability=8.0), "xla"),
        (H100._replace(window=64), "block_local"),
        (CPU._replace(window=64), "block_local"),
        (CPU._replace(window=64, dropout=True), "block_local"),
        (CPU._replace(window=256), "xla"),
        (TPU._replace(window=64), "splash"),
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
        (
            "cudnn",
            H100._replace(packed=True, capability=8.0),
            r"from compute capability 9\.0 .*\(data\.max_sequences_per_row\)",
        ),
        ("cudnn", H100._replace(window=64), "sees all of a sequence, not a window"),
        ("cudnn", H100._replace(dropout=True), "would drop the same probabilities in every step"),
        ("block_local", CPU, "is for layers that see a window"),
        ("block_local", CPU._replace(window=256), "saves nothing on rows of 512 with a window of 256"),
        ("cudnn", H100._replace(dtype="float32"), r"in bfloat16, not in float32 \(model\.dtype\)"),
        ("cudnn", H100._replace(head_dim=20), "multiples of 8 up to 256, not of 20"),
        ("flash", CPU, r"model\.attention is 'flash'; there are auto, splash, cudnn, block_local, xla"),
    ],
)
def test_a_kernel_that_cannot_do_it_says_why(asked: str, request_: Request, message: str):
    with pytest.raises(UserError, match=message):
        select_kernel(asked, request_)


def test_a_run_asks_for_what_its_config_needs(config: Config):
    spec = spec_of(config)
    assert spec.kernels.whole is xla
    assert spec.config.model.attention == "auto", "what was chosen is not stored as if it had been asked for"
    long = replace(
        config,
        model__max_position_embeddings=512,
        model__attention_probs_dropout_prob=0.0,
        data__sequence_length=512,
        data__masking=MaskingConfig(max_predictions=77),
    )
    assert spec_of(long, platform=Platform("tpu")).kernels.whole is splash
    assert spec_of(long, platform=Platform("cuda", 9.0)).kernels.whole is xla, (
        "rows are packed, and it is float32"
    )
    with pytest.raises(UserError, match="'cudnn' is for NVIDIA GPUs"):
        spec_of(replace(long, model__attention="cudnn"))
