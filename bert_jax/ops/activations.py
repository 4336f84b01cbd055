"""Activation functions by Hugging Face's names."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), exact (Hendrycks and Gimpel 2016), with erf in float32.

    `jax.nn.gelu(approximate=False)`, the plain twin, has erfc: slower, and backward keeps its parts. Here it
    keeps one array, the derivative.
    """
    x32 = x.astype(jnp.float32)
    return (x32 * _normal_cdf(x32)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    x32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * x32 * x32) * (1 / math.sqrt(2 * math.pi))
    return gelu(x), tangent * (_normal_cdf(x32) + x32 * density).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
"""Activations by their value of `hidden_act`."""
