"""Layer normalization beside autodiff of its formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.ops.layer_norm import layer_norm

pytestmark = pytest.mark.usefixtures("strict_dtypes")
EPS = 1e-5


def plain(x, scale, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPS)
    return centred / deviation * scale[None, None] + bias[None, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_value_and_gradients_are_those_of_the_formula(dtype, tolerance: float):
    r = np.random.default_rng(0)
    x, weight = (jnp.asarray(r.normal(3, 2, (4, 9, 32)), dtype) for _ in range(2))
    scale, bias = (jnp.asarray(r.normal(size=32), jnp.float32) for _ in range(2))
    found = layer_norm(x, scale, bias, EPS)
    assert found.dtype == dtype
    x32, weight32 = x.astype(jnp.float32), weight.astype(jnp.float32)
    np.testing.assert_allclose(
        found.astype(jnp.float32), plain(x32, scale, bias), rtol=tolerance, atol=5 * tolerance
    )
    gradients = jax.grad(
        lambda *args: (layer_norm(*args, EPS).astype(jnp.float32) * weight32).sum(), argnums=(0, 1, 2)
    )(x, scale, bias)
    expected = jax.grad(lambda *args: (plain(*args) * weight32).sum(), argnums=(0, 1, 2))(x32, scale, bias)
    for a, b in zip(gradients, expected, strict=True):
        assert np.abs(np.asarray(a, np.float32) - b).max() <= tolerance * np.abs(b).max()


def test_the_backward_pass_keeps_no_float32_array_of_the_inputs_size():
    x, vector = jnp.ones((4, 9, 32), jnp.bfloat16), jnp.ones(32, jnp.float32)
    _, backward = jax.vjp(lambda x, scale, bias: layer_norm(x, scale, bias, EPS), x, vector, vector)
    kept = {(np.shape(leaf), np.asarray(leaf).dtype.name) for leaf in jax.tree.leaves(backward)}
    assert ((4, 9, 32), "bfloat16") in kept
    assert ((4, 9, 32), "float32") not in kept
