"""Windowed attention in plain XLA, block by block: it costs S times the window, not S times S.

A row is cut into blocks as wide as the window. A block of queries sees its own block of keys and the two
beside it; what is too far away or of another segment is masked. So do LongT5 (Guo et al. 2022, figure 2) and
T5X.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.ops.attention import xla
from bert_jax.ops.attention.kernel import Request
from bert_jax.ops.dropout import dropout

NAME = "block_local"
MANUAL_AXES = False
KEEPS_PROBABILITIES = True


def refuses(request: Request) -> str | None:
    if request.window is None:
        return "is for layers that see a window, and this one sees all of a sequence"
    if request.sequence_length <= 3 * request.window:
        return f"saves nothing on rows of {request.sequence_length} with a window of {request.window}"
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
    """Attention within a window. W is its width to one side, N the blocks of a row; see `Kernel.apply`."""
    assert window is not None, "it refuses to see all"
    S, W = query_BxSxHxE.shape[1], window
    blocks = -(-S // W)

    def cut(x: jax.Array, *, fill: int = 0) -> jax.Array:
        """[B, S, ...] -> [B, N, W, ...]."""
        rest = [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, [(0, 0), (0, blocks * W - S), *rest], constant_values=fill)
        return x.reshape(x.shape[0], blocks, W, *x.shape[2:])

    def neighbours(x: jax.Array, *, fill: int = 0) -> jax.Array:
        """[B, N, W, ...] -> [B, N, 3 W, ...]: each block between the one before and the one after."""
        rest = [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, [(0, 0), (1, 1), *rest], constant_values=fill)
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    scale = query_BxSxHxE.shape[-1] ** -0.5
    query_BxNxWxHxE = cut(query_BxSxHxE * scale)
    key_BxNx3WxHxE, value_BxNx3WxHxE = (neighbours(cut(x)) for x in (key_BxSxHxE, value_BxSxHxE))
    logits_BxNxHxWx3W = jnp.einsum(
        "bnqhe,bnkhe->bnhqk", query_BxNxWxHxE, key_BxNx3WxHxE, preferred_element_type=jnp.float32
    )
    segments_BxNxW = cut(segment_ids_BxS, fill=-1)  # of no token
    same_BxNxWx3W = segments_BxNxW[:, :, :, None] == neighbours(segments_BxNxW, fill=-2)[:, :, None, :]
    near_Wx3W = jnp.abs(jnp.arange(W)[:, None] + W - jnp.arange(3 * W)[None, :]) <= W
    mask_BxNx1xWx3W = (same_BxNxWx3W & near_Wx3W[None, None])[:, :, None]
    logits_BxNxHxWx3W = jnp.where(mask_BxNx1xWx3W, logits_BxNxHxWx3W, jnp.finfo(jnp.float32).min)
    probs_BxNxHxWx3W = xla.softmax(logits_BxNxHxWx3W, value_BxSxHxE.dtype)
    if dropout_keys is not None:
        probs_BxNxHxWx3W = dropout(probs_BxNxHxWx3W, rate=dropout_rate, keys=dropout_keys)
    attended_BxNxWxHxE = jnp.einsum("bnhqk,bnkhe->bnqhe", probs_BxNxHxWx3W, value_BxNx3WxHxE)
    return attended_BxNxWxHxE.reshape(query_BxSxHxE.shape[0], blocks * W, *query_BxSxHxE.shape[2:])[:, :S]
