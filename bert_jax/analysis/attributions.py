"""Integrated gradients: what each token adds to a number about the output of a model."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


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

    pairs = jnp.asarray(np.stack([(points + 1) / 2, weights / 2], axis=1), x_SxD.dtype)
    total_SxD = jax.lax.map(weighted, pairs).sum(axis=0)
    return (difference_SxD * total_SxD).sum(axis=-1)


def words_and_baseline(
    table_VxD: jax.Array, token_ids_S: jax.Array, kept_S: jax.Array, *, pad: int
) -> tuple[jax.Array, jax.Array]:
    """[S, D] twice: the word embeddings, and those of `pad` wherever `kept` is False.

    Positions, types and who sees whom are not part of it: the baseline is a text of as many empty words.
    """
    words_SxD = table_VxD[token_ids_S]
    return words_SxD, jnp.where(kept_S[:, None], words_SxD, table_VxD[pad][None])
