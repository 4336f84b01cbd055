"""Shapes: ranks are never promoted silently (`jax_numpy_rank_promotion`), so vectors are expanded by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def along_last_axis(vector: jax.Array, x: jax.Array) -> jax.Array:
    """[D] -> [1, ..., 1, D], of the rank of `x`."""
    return jnp.expand_dims(vector, range(x.ndim - 1))
