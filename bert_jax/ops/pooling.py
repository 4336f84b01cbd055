"""One vector for each packed sequence, of the hidden states of its tokens.

Shapes in names: B rows, S row length, P packed sequences a row, D hidden.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp


def pool(
    hidden_BxSxD: jax.Array,
    segment_ids_BxS: jax.Array,
    *,
    sequences: int,
    how: Literal["mean", "cls", "last"],
) -> jax.Array:
    """[B, P, D] float32: the mean of the tokens of each sequence, its first or its last one; 0 where there is
    no sequence.

    As sentence_transformers/sentence_transformer/modules/pooling.py has it, row by row.

    Args:
      segment_ids_BxS: 0 is padding, 1..P the sequence.
    """
    own_BxPxS = segment_ids_BxS[:, None] == jnp.arange(1, sequences + 1)[None, :, None]
    match how:
        case "mean":
            weights_BxPxS = own_BxPxS / jnp.maximum(own_BxPxS.sum(axis=-1, keepdims=True), 1)
        case "cls":
            weights_BxPxS = own_BxPxS & (jnp.cumsum(own_BxPxS, axis=-1) == 1)
        case "last":
            weights_BxPxS = own_BxPxS & (
                jnp.cumsum(own_BxPxS, axis=-1) == own_BxPxS.sum(axis=-1, keepdims=True)
            )
    x_BxSxD = hidden_BxSxD.astype(jnp.float32)
    return jnp.einsum(
        "bps,bsd->bpd",
        weights_BxPxS.astype(jnp.float32),
        x_BxSxD,
        precision=jax.lax.Precision.HIGHEST,
    )


def normalized(x: jax.Array) -> jax.Array:
    """Vectors of length 1 along the last axis, as torch.nn.functional.normalize makes them; 0 stays 0."""
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
