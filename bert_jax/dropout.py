"""Dropout (Srivastava et al. 2014) from a quarter of the random words."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, *, rate: float, key: jax.Array) -> jax.Array:
    """Zeroes a share of `rate` of the elements and scales the others up to keep the mean.

    Random bits are most of dropout's cost, so a word of 32 bits serves four elements: each has a byte of its
    own, and below it, for the last digits of the share, that of a neighbour. An element is compared with
    65,536 times the share to keep, rounded, and scaled by exactly what that keeps.
    """
    if rate == 0:
        return x
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
    turned = [words, words >> 8, words >> 16, words >> 24 | words << 8]
    uniform = (jnp.stack(turned, axis=-1) & 0xFFFF).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    kept = round((1 - rate) * 2**16)
    return jnp.where(uniform < kept, x * jnp.asarray(2**16 / kept, x.dtype), 0)
