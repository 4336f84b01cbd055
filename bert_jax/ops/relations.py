"""How alike the vectors of a sequence are to each other, head by head, and how two such relations differ.

MiniLMv2 (Wang et al. 2021, arXiv 2012.15828, section 3): relations between queries, between keys and between
values do not depend on the width or the attention heads of a model, so that a narrower one can learn them.

Shapes in names: B rows, S row length, D a width, H relation heads, E a head's part of it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


# Computed again in the backward pass, or relations of all kinds, [B, H, S, S] each, would wait for it.
@functools.partial(jax.checkpoint, static_argnums=(0,))
def relation_divergence(
    heads: int, vectors_BxSxD: jax.Array, teacher_BxSxD: jax.Array, segment_ids_BxS: jax.Array
) -> jax.Array:
    """The Kullback-Leibler divergence of the relations of one model from those of another: a float32 scalar.

    In nats, the mean over the heads and the sum over the tokens, which the paper divides by their number. A
    token is compared with those of its own sequence; padding with nothing.
    """
    same_Bx1xSxS = segment_ids_BxS[:, None, :, None] == segment_ids_BxS[:, None, None, :]
    log_BxHxSxS, teacher_BxHxSxS = (
        _log_relations(x, same_Bx1xSxS, heads) for x in (vectors_BxSxD, teacher_BxSxD)
    )
    nats_BxHxSxS = jnp.exp(teacher_BxHxSxS) * (teacher_BxHxSxS - log_BxHxSxS)
    nats_BxS = jnp.where(same_Bx1xSxS, nats_BxHxSxS, 0).sum(axis=-1).mean(axis=1)
    return jnp.where(segment_ids_BxS > 0, nats_BxS, 0).sum()


def _log_relations(x_BxSxD: jax.Array, same_Bx1xSxS: jax.Array, heads: int) -> jax.Array:
    """[B, H, S, S] float32: logarithms of the softmax of scaled dot products."""
    x_BxSxHxE = x_BxSxD.reshape(*x_BxSxD.shape[:2], heads, -1)
    logits_BxHxSxS = jnp.einsum("bqhe,bkhe->bhqk", x_BxSxHxE, x_BxSxHxE, preferred_element_type=jnp.float32)
    logits_BxHxSxS = logits_BxHxSxS * x_BxSxHxE.shape[-1] ** -0.5
    lowest = jnp.finfo(jnp.float32).min / 2
    return jax.nn.log_softmax(jnp.where(same_Bx1xSxS, logits_BxHxSxS, lowest), axis=-1)
