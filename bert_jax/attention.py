"""Attention behind one signature. Here: the plain XLA form, the reference for any other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.dropout import dropout


def attention(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    *,
    segment_ids_BxS: jax.Array,
    dropout_rate: float = 0.0,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Bidirectional attention (Vaswani et al. 2017, equation 1) within segments; returns [B, S, H, E].

    A position sees exactly those with its own segment id: packed sequences do not see each other, nor
    padding (segment 0), nor does padding see them, and the gradients between them are exactly zero. Dropout
    is on the probabilities, if there are keys, one for each row. The softmax is in float32.
    """
    scale = query_BxSxHxE.shape[-1] ** -0.5
    logits_BxHxQxK = jnp.einsum(
        "bqhe,bkhe->bhqk", query_BxSxHxE * scale, key_BxSxHxE, preferred_element_type=jnp.float32
    )
    visible_Bx1xQxK = (segment_ids_BxS[:, :, None] == segment_ids_BxS[:, None, :])[:, None]
    logits_BxHxQxK = jnp.where(visible_Bx1xQxK, logits_BxHxQxK, jnp.finfo(jnp.float32).min)
    probs_BxHxQxK = jax.nn.softmax(logits_BxHxQxK, axis=-1).astype(value_BxSxHxE.dtype)
    if dropout_keys is not None:
        probs_BxHxQxK = dropout(probs_BxHxQxK, rate=dropout_rate, keys=dropout_keys)
    return jnp.einsum("bhqk,bkhe->bqhe", probs_BxHxQxK, value_BxSxHxE)
