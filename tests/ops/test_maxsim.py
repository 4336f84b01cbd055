"""MaxSim and its gradient, against plain loops in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.ops import maxsim
from tests.helpers.steps import mesh_of
from tests.ops.test_contrastive import units

B, Q, C, S, T, D = 8, 3, 8, 9, 3, 5

LENGTHS = np.array([2, 3, 3, 1, 2, 3, 2, 3])
"""Tokens of each query that count."""
OWNERS = np.array([[-1, 0, 0, 0, -2, 1, 1, 2, -2], [0, 1, 1, 1, 1, 1, -1, -1, -1]] * 4)
"""Of rows with three texts, and with two."""


def plain(
    queries: np.ndarray, tokens: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, and the gradients of their sum, weighted, by queries and by tokens."""
    scores = np.zeros((B, C, T))
    by_queries, by_tokens = np.zeros_like(queries), np.zeros_like(tokens)
    for b, c, t in np.ndindex(B, C, T):
        own = np.flatnonzero(OWNERS[c] == t)
        for q in range(LENGTHS[b] if own.size else 0):
            products = tokens[c, own] @ queries[b, q]
            best = own[products.argmax()]
            scores[b, c, t] += products.max()
            by_queries[b, q] += cotangent[b, c, t] * tokens[c, best]
            by_tokens[c, best] += cotangent[b, c, t] * queries[b, q]
    return scores, by_queries, by_tokens


@pytest.mark.long
@pytest.mark.parametrize(
    ("mesh", "at_once"),
    [((1, 1, 1), 2**26), ((1, 1, 1), 1), ((2, 1, 1), 3 * B * Q * S), ((2, 2, 2), 2 * B * Q * S)],
)
def test_scores_and_gradients_are_those_of_the_definition(
    mesh: tuple[int, int, int], at_once: int, monkeypatch: pytest.MonkeyPatch
):
    """In blocks of any size, on any mesh."""
    monkeypatch.setattr(maxsim, "AT_ONCE", at_once)
    queries, tokens = units((B, Q, D), 0), units((C, S, D), 1)
    cotangent = np.random.default_rng(2).normal(size=(B, C, T))
    counts = jnp.asarray(np.arange(Q)[None] < LENGTHS[:, None])

    def total(queries: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = maxsim.scores(queries, counts, tokens, jnp.asarray(OWNERS), T=T)
        return (found * jnp.float32(cotangent)).sum(), found

    built = mesh_of(mesh)
    with jax.set_mesh(built):
        gradients = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
        (by_queries, by_tokens), scores = gradients(*map(jnp.float32, (queries, tokens)))
    for found, expected in zip(
        (scores, by_queries, by_tokens), plain(queries, tokens, cotangent), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
