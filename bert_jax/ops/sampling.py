"""Samples from a softmax over many classes: a block of them first, then one of the block.

So two logarithms of noise are taken for each block and for the classes of one, not for each of a vocabulary.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from bert_jax.ops.shapes import along_last_axis

BLOCK = 128
"""Classes."""


def sample(logits: jax.Array, words: jax.Array) -> jax.Array:
    """A class of each softmax. [..., V] -> [...] int32.

    What is drawn follows from its logits and its words alone, however the others are cut.

    Args:
      words: [..., 2] uint32, random bits of each softmax.
    """
    surplus = -logits.shape[-1] % BLOCK
    padded = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, surplus)], constant_values=-math.inf)
    blocks = padded.reshape(*logits.shape[:-1], -1, BLOCK)
    block = _drawn(jax.nn.logsumexp(blocks, axis=-1), words)
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2).squeeze(-2)
    return block * BLOCK + _drawn(inside, words ^ jnp.uint32(0x5BD1E995))


def _drawn(logits: jax.Array, words: jax.Array) -> jax.Array:
    """One of few classes by the Gumbel-max trick (Gumbel 1954); the noise of a class is a hash of its number
    and of the words."""
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
