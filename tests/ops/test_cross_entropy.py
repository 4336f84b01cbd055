"""The fused cross-entropy of decoded logits is its plain twin: values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.ops.cross_entropy import decode, decoded_cross_entropy

N, D, V, EXISTING = 13, 16, 128, 100


def plain(x, decoder, bias, labels, weights):
    """Autodiff's own way, with all logits kept."""
    logits = decode(x, decoder, bias)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels[:, None], axis=-1)[:, 0]
    return (nll * weights).sum(), ((logits.argmax(axis=-1) == labels) * weights).sum()


@pytest.fixture
def inputs() -> tuple:
    r = np.random.default_rng(0)
    bias = np.where(np.arange(V) < EXISTING, r.normal(size=V), np.finfo(np.float32).min / 2)
    weights = np.where(np.arange(N) % 4, r.uniform(0.5, 2, N), 0)
    x, decoder = r.normal(size=(N, D)), r.normal(size=(V, D))
    labels = r.integers(0, EXISTING, N)
    labels[1] = (x @ decoder.T + bias)[1].argmax()
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, decoder, bias)]
    return *arrays, jnp.asarray(labels), jnp.asarray(weights, jnp.float32)


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_value_and_gradients_are_those_of_the_plain_form(inputs, dtype, tolerance: float):
    x, *rest = inputs
    expected, hits = plain(*inputs)
    found, found_hits = decoded_cross_entropy(x.astype(dtype), *rest)
    assert float(found) == pytest.approx(float(expected), rel=tolerance)
    assert float(found_hits) == float(hits) > 0

    def scaled(function):
        return lambda x, *rest: (function(x, *rest)[0] * 3.5) ** 2

    value, gradients = jax.value_and_grad(scaled(decoded_cross_entropy), argnums=(0, 1, 2))(
        x.astype(dtype), *rest
    )
    expected, expected_gradients = jax.value_and_grad(scaled(plain), argnums=(0, 1, 2))(*inputs)
    assert float(value) == pytest.approx(float(expected), rel=2 * tolerance)
    for a, b in zip(gradients, expected_gradients, strict=True):
        a = np.asarray(a, np.float32)
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() <= 2 * tolerance * np.abs(b).max()
    assert gradients[1].dtype == jnp.float32


def test_no_logits_wait_for_the_backward_pass(inputs):
    """What autodiff keeps: no array of [N, V], where the plain form keeps some."""

    def kept(function) -> set[tuple[int, ...]]:
        _, backward = jax.vjp(
            lambda x, decoder, bias: function(x, decoder, bias, *inputs[3:])[0], *inputs[:3]
        )
        return {np.shape(array) for array in jax.tree.leaves(backward)}

    assert (N, V) in kept(plain)
    assert (N, V) not in kept(decoded_cross_entropy)
    assert (V, D) in kept(decoded_cross_entropy)
