"""Dropout (Srivastava et al. 2014) from a quarter of the random words, with a key for each row of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, *, rate: float, keys: jax.Array) -> jax.Array:
    """Zeroes a share of `rate` of the elements and scales the others up to keep the mean.

    A row's mask is a function of its key alone: neither the mesh nor the cut into microbatches is seen in it.

    Random bits are most of dropout's cost, so a word of 32 bits serves four elements: each has a byte of its
    own, and below it, for the last digits of the share, that of a neighbour. An element is compared with
    65,536 times the share to keep, rounded, and scaled by exactly what that keeps.

    Args:
      x: [B, ..., S, D].
      keys: [B] typed keys.
    """
    if rate == 0:
        return x
    *_, S, D = x.shape
    quarter = -(-S // 4)

    def words_of(key: jax.Array) -> jax.Array:
        return jax.random.bits(key, (*x.shape[1:-2], 1, quarter, D), jnp.uint32)

    words = jax.lax.optimization_barrier(jax.vmap(words_of)(keys))  # else a compiler may draw them four times
    shift = jnp.arange(0, 32, 8, jnp.uint32).reshape(*[1] * (x.ndim - 2), 4, 1, 1)
    turned = words >> shift | words << (32 - shift)  # a shift by 32 gives 0
    uniform = (turned & 0xFFFF).reshape(*x.shape[:-2], 4 * quarter, D)[..., :S, :]
    kept = round((1 - rate) * 2**16)
    return jnp.where(uniform < kept, x * jnp.asarray(2**16 / kept, x.dtype), 0)
