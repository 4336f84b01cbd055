"""What a model looks at, and what its answer rests on: attention maps and integrated gradients.

Shapes in names: L layers, H heads, S tokens of the one row, D hidden, Q and K tokens as queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.models import bert as model
from bert_jax.models.bert import Batch, Params


def attention_maps(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    """[L, H, S, S] float32 for a batch of one row: how much of each key (last axis) a query takes."""
    x_LxSxD = model.hidden_states(config, params, batch)[:-1, 0].astype(jnp.float32)
    by_head = (*x_LxSxD.shape[:2], config.num_attention_heads, config.head_dim)

    def project(name: str) -> jax.Array:
        layer = params["layers"][name]
        y_LxSxD = jnp.einsum("lsd,lde->lse", x_LxSxD, layer["kernel"]) + layer["bias"][:, None]
        return y_LxSxD.reshape(by_head)

    with model.precision(jnp.float32):
        query_LxSxHxE, key_LxSxHxE = project("query"), project("key")
        logits_LxHxQxK = jnp.einsum("lqhe,lkhe->lhqk", query_LxSxHxE, key_LxSxHxE) * config.head_dim**-0.5
    segments_S = batch["segment_ids"][0]
    visible_QxK = segments_S[:, None] == segments_S[None, :]
    return jax.nn.softmax(jnp.where(visible_QxK[None, None], logits_LxHxQxK, -jnp.inf), axis=-1)


def integrated_gradients(
    output: Callable[[jax.Array], jax.Array], x_SxD: jax.Array, baseline_SxD: jax.Array, *, steps: int
) -> jax.Array:
    """[S]: what each token adds to `output(x) - output(baseline)` (Sundararajan et al. 2017, equation 1).

    Over all tokens they sum to that difference, but for the error of the quadrature (Gauss-Legendre with
    `steps` points, exact for gradients that are polynomials of degree 2 steps - 1 along the way).
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    difference_SxD = x_SxD - baseline_SxD

    def weighted(point_and_weight: jax.Array) -> jax.Array:
        point, weight = point_and_weight
        return weight * jax.grad(output)(baseline_SxD + point * difference_SxD)

    ways = jnp.asarray(np.stack([(points + 1) / 2, weights / 2], axis=1), x_SxD.dtype)
    total_SxD = jax.lax.map(weighted, ways).sum(axis=0)
    return (difference_SxD * total_SxD).sum(axis=-1)


def words_and_baseline(
    params: Params, token_ids_S: jax.Array, kept_S: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """[S, D] twice: the word embeddings, and those of [PAD] wherever `kept` is False.

    Positions, types and who sees whom are not part of it: the baseline is a text of as many empty words.
    """
    table_VxD = params["embeddings"]["word"]
    words_SxD = table_VxD[token_ids_S]
    return words_SxD, jnp.where(kept_S[:, None], words_SxD, table_VxD[0][None])
