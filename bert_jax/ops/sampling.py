"""Samples from a softmax by the Gumbel-max trick, with noise that is hashed and fuses with what reads it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.ops.shapes import along_last_axis


def sample(logits: jax.Array, words: jax.Array) -> jax.Array:
    """A class of each softmax: argmax of the logits plus Gumbel noise (Gumbel 1954). [..., V] -> [...] int32.

    The noise of a class is a hash of it and of the random words, integer operations element by element: no
    array of [..., V] random numbers need be held, and nothing depends on how the others are cut.

    Args:
      words: [..., 2] uint32, random bits of each softmax.
    """
    class_V = jnp.arange(logits.shape[-1], dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
    hashed = _mixed(_mixed(along_last_axis(class_V, words) ^ words[..., :1]) + words[..., 1:])
    uniform = (hashed.astype(jnp.float32) + 0.5) * 2.0**-32  # small ones, which win, have the finest steps
    exponential = -jnp.log1p(-uniform)
    return jnp.argmax(logits - jnp.log(exponential), axis=-1).astype(jnp.int32)


def _mixed(x: jax.Array) -> jax.Array:
    """fmix32 of MurmurHash3: each bit of a uint32 changes all others (Appleby 2011)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
