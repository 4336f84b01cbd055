"""Activations beside PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bert_jax.ops.activations import ACTIVATIONS, gelu

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives_are_those_of_transformers(name: str):
    x = np.linspace(-9, 9, 2001, dtype=np.float32)
    function = ACTIVATIONS[name]
    value, derivative = function(jnp.asarray(x)), jax.vmap(jax.grad(function))(jnp.asarray(x))
    theirs = torch.tensor(x, requires_grad=True)
    expected = transformers.activations.ACT2FN[name](theirs)
    expected.sum().backward()
    np.testing.assert_allclose(value, expected.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(derivative, theirs.grad.numpy(), atol=1e-5)


def test_bfloat16_is_computed_in_float32():
    """Below -2.6, where 1 + erf(x) has no digits left in bfloat16."""
    x = jnp.linspace(-4, 4, 401).astype(jnp.bfloat16)
    exact = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    found = gelu(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
