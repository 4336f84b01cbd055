"""Attention in plain XLA, the reference for the other kernels; it holds logits and probabilities."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.ops.attention.kernel import Request
from bert_jax.ops.dropout import dropout

NAME = "xla"
MANUAL_AXES = False
KEEPS_PROBABILITIES = True


def refuses(request: Request) -> str | None:
    return None


def apply(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    *,
    segment_ids_BxS: jax.Array,
    max_segments: int = 1,
    window: int | None = None,
    dropout_rate: float = 0.0,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Plain attention: the reference of every other kernel; see `Kernel.apply`."""
    scale = query_BxSxHxE.shape[-1] ** -0.5
    logits_BxHxQxK = jnp.einsum(
        "bqhe,bkhe->bhqk", query_BxSxHxE * scale, key_BxSxHxE, preferred_element_type=jnp.float32
    )
    # The attention mask: a token sees those of its own packed sequence.
    mask_Bx1xQxK = (segment_ids_BxS[:, :, None] == segment_ids_BxS[:, None, :])[:, None]
    if window is not None:
        position_S = jnp.arange(segment_ids_BxS.shape[1])
        near_QxK = jnp.abs(position_S[:, None] - position_S[None, :]) <= window
        mask_Bx1xQxK &= near_QxK[None, None]
    logits_BxHxQxK = jnp.where(mask_Bx1xQxK, logits_BxHxQxK, jnp.finfo(jnp.float32).min)
    probs_BxHxQxK = softmax(logits_BxHxQxK, value_BxSxHxE.dtype)
    if dropout_keys is not None:
        probs_BxHxQxK = dropout(probs_BxHxQxK, rate=dropout_rate, keys=dropout_keys)
    return jnp.einsum("bhqk,bkhe->bqhe", probs_BxHxQxK, value_BxSxHxE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(logits: jax.Array, dtype: Any) -> jax.Array:
    """Over the last axis, in float32. The backward pass keeps the result, in `dtype`, and nothing else."""
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


def _softmax_forward(logits: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    probs = softmax(logits, dtype)
    return probs, probs


def _softmax_backward(dtype: Any, probs: jax.Array, grad_probs: jax.Array) -> tuple[jax.Array]:
    probs, grad_probs = probs.astype(jnp.float32), grad_probs.astype(jnp.float32)
    return (probs * (grad_probs - (probs * grad_probs).sum(axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)
