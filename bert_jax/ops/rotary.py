"""Rotary positions (Su et al. 2021, section 3.2): queries and keys, turned by an angle for each position."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Rotation(NamedTuple):
    """Cosines and sines of the angles, [B, S, E / 2] each, for heads of E."""

    cos: jax.Array
    sin: jax.Array


def rotation(position_ids_BxS: jax.Array, *, theta: float, head_dim: int, dtype: str) -> Rotation:
    """Pair i of position p has the angle p theta^(-2 i / E) (equation 15), computed in float32.

    Args:
      dtype: of the result; as in Transformers, it is rounded before it is used.
    """
    frequencies = 1 / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = position_ids_BxS[:, :, None].astype(jnp.float32) * frequencies[None, None]
    return Rotation(jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype))


def rotate(x_BxSxHxE: jax.Array, by: Rotation) -> jax.Array:
    """`x` turned, in float32. The pairs are (x[i], x[i + E / 2]), as in GPT-NeoX."""
    first, second = jnp.split(x_BxSxHxE.astype(jnp.float32), 2, axis=-1)
    cos, sin = (table[:, :, None].astype(jnp.float32) for table in by)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxSxHxE.dtype)
