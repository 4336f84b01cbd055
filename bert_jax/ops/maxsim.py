"""MaxSim: how well a text answers a query, by the vectors of their tokens.

Khattab and Zaharia 2020, arXiv 2004.12832, equation 3.

Shapes in names: B queries, Q tokens of a query, C rows of texts, S row length, T texts of a row, D size of a
vector. All is float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.ops.contrastive import LEAST
from bert_jax.parallel import sharding

AT_ONCE = 2**26
"""Products of two tokens that are in memory at once, on all devices together."""


def scores(
    queries_BxQxD: jax.Array, counts_BxQ: jax.Array, tokens_CxSxD: jax.Array, owners_CxS: jax.Array, *, T: int
) -> jax.Array:
    """[B, C, T]: the sum over a query's tokens of the largest product with a token of a text.

    A block of rows at a time, forward and backward: [B, C, Q, S] is never in memory.

    Args:
      counts_BxQ: whether a token of a query counts.
      owners_CxS: the text that a token of a row is of, 0 to T - 1; negative if it does not count. A text
        without tokens has the score 0.
    """
    B, Q, _ = queries_BxQxD.shape
    C, S, _ = tokens_CxSxD.shape
    queries_BxQxD = sharding.constrain(queries_BxQxD, "batch", None, None)
    # Each device compares its queries with all texts.
    tokens_CxSxD = sharding.constrain(tokens_CxSxD, None, None, None)
    owners_CxS = sharding.constrain(owners_CxS, None, None)

    @jax.checkpoint
    def of_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        tokens_SxD, owners_S = row
        products_BxQxS = jnp.einsum(
            "bqd,sd->bqs", queries_BxQxD, tokens_SxD, precision=jax.lax.Precision.HIGHEST
        )

        def of_text(t: int) -> jax.Array:
            own_1x1xS = (owners_S == t)[None, None]
            largest_BxQ = jnp.where(own_1x1xS, products_BxQxS, LEAST).max(axis=-1)
            return jnp.where(counts_BxQ & own_1x1xS.any(axis=-1), largest_BxQ, 0).sum(axis=-1)

        return jnp.stack([of_text(t) for t in range(T)], axis=-1)

    rows = min(C, max(1, AT_ONCE // (B * Q * S)))
    found_CxBxT = jax.lax.map(of_row, (tokens_CxSxD, owners_CxS), batch_size=rows)
    return found_CxBxT.swapaxes(0, 1)
