"""Losses that compare texts by their vectors: of a whole batch, and the same on any number of devices.

Shapes in names: B examples of a batch, T texts of an example after its anchor: the positive first, then
negatives; D size of a vector. All is float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

LEAST = float(jnp.finfo(jnp.float32).min) / 2
"""The logit of what does not count."""


def scores(anchors_BxD: jax.Array, texts_BxTxD: jax.Array) -> jax.Array:
    """[B, B, T]: the dot product of each anchor and each text of each example."""
    return jnp.einsum("id,jtd->ijt", anchors_BxD, texts_BxTxD, precision=jax.lax.Precision.HIGHEST)


class InBatch(NamedTuple):
    """What is found of the positive of each example, [B] float32."""

    nll_B: jax.Array
    """Its negative log-likelihood, in nats."""
    hit_B: jax.Array
    """Whether it is closer than all negatives, those too that the margin leaves out."""
    left_out_B: jax.Array
    """The share of its negatives that the margin leaves out."""


def in_batch(
    scores_BxBxT: jax.Array,
    ids_BxP: jax.Array,
    weights_B: jax.Array,
    *,
    temperature: float,
    symmetric: bool = False,
    margin: float | None = None,
) -> InBatch:
    """How likely each positive is among the texts of all examples.

    InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, equation 4) with all texts of the batch as negatives
    (Henderson et al. 2017); MultipleNegativesRankingLoss of Sentence Transformers. A text that is there twice
    counts once. Not among the negatives: the positive's text in another example, the anchor's own text, and
    positives of the same anchor.

    Args:
      scores_BxBxT: of each anchor and each text of each example.
      ids_BxP: equal for equal texts, the anchor's first; -1 where an example has no such text. P = 1 + T.
      weights_B: examples of weight 0 are nobody's negatives.
      symmetric: the mean of this and of the likelihood of each anchor among all anchors, given its positive.
      margin: texts that are closer to the anchor than its positive less this are not among the negatives.
    """
    anchor_B, positive_B, ids_BxT = ids_BxP[:, 0], ids_BxP[:, 1], ids_BxP[:, 1:]
    own_BxB = jnp.eye(len(ids_BxP), dtype=bool)
    counts_BxT = _first((ids_BxT >= 0) & (weights_B > 0)[:, None], ids_BxT)
    same_anchor_BxB = _equal(anchor_B, anchor_B)
    first_1x1xT = (jnp.arange(ids_BxT.shape[1]) == 0)[None, None]
    excluded_BxBxT = (
        ~counts_BxT[None]
        | (ids_BxT[None] == positive_B[:, None, None])
        | (ids_BxT[None] == anchor_B[:, None, None])
        | (same_anchor_BxB[:, :, None] & first_1x1xT)
    )
    own_BxBxT = own_BxB[:, :, None] & first_1x1xT
    found = _among(scores_BxBxT, own_BxBxT, excluded_BxBxT, temperature=temperature, margin=margin)
    if not symmetric:
        return found
    back_BxB = scores_BxBxT[:, :, 0].T  # a positive and the anchors
    excluded_BxB = (
        ~_first(weights_B > 0, anchor_B)[None]
        | same_anchor_BxB
        | _equal(positive_B, positive_B)
        | _equal(positive_B, anchor_B)
    )
    back = _among(back_BxB, own_BxB, excluded_BxB, temperature=temperature, margin=margin)
    return found._replace(nll_B=(found.nll_B + back.nll_B) / 2)


def _first(counts: jax.Array, ids: jax.Array) -> jax.Array:
    """Which of those that count are the first with their id."""
    known = jnp.where(counts, ids, -1).ravel()
    order = jnp.argsort(known, stable=True)
    ascending = known[order]
    is_new = jnp.append(True, ascending[1:] != ascending[:-1])
    return counts & jnp.zeros_like(is_new).at[order].set(is_new).reshape(ids.shape)


def _equal(one_B: jax.Array, other_B: jax.Array) -> jax.Array:
    return one_B[:, None] == other_B[None]


def _among(
    scores: jax.Array, own: jax.Array, excluded: jax.Array, *, temperature: float, margin: float | None
) -> InBatch:
    """Along all axes but the first: where `own` is, among what is not excluded."""
    rows = len(scores)
    scores_BxN, own_BxN, excluded_BxN = (x.reshape(rows, -1) for x in (scores, own, excluded))
    found_B = jnp.where(own_BxN, scores_BxN, 0).sum(axis=1)
    negative_BxN = kept_BxN = ~(own_BxN | excluded_BxN)
    if margin is not None:
        kept_BxN = negative_BxN & (scores_BxN <= found_B[:, None] - margin)
    logits_BxN = jnp.where(own_BxN | kept_BxN, scores_BxN / temperature, LEAST)
    closest_B = jnp.where(negative_BxN, scores_BxN, LEAST).max(axis=1)
    left_out_B = (negative_BxN & ~kept_BxN).sum(axis=1)
    return InBatch(
        nll_B=jax.nn.logsumexp(logits_BxN, axis=1) - found_B / temperature,
        hit_B=(found_B > closest_B).astype(jnp.float32),
        left_out_B=left_out_B / jnp.maximum(negative_BxN.sum(axis=1), 1),
    )


def cosent(
    cosines_B: jax.Array, labels_B: jax.Array, weights_B: jax.Array, *, temperature: float
) -> jax.Array:
    """How far pairs of texts are from the order of their labels: a scalar, 0 if they are far apart and right.

    log(1 + sum of exp((cosine of j - cosine of i) / temperature) where i has the larger label): Su (2022),
    CoSENTLoss of Sentence Transformers.
    """
    counts_B = weights_B > 0
    counts_BxB = (labels_B[:, None] > labels_B[None]) & counts_B[:, None] & counts_B[None]
    exponents_BxB = jnp.where(counts_BxB, (cosines_B[None] - cosines_B[:, None]) / temperature, LEAST)
    return jax.nn.logsumexp(jnp.append(exponents_BxB.ravel(), 0.0))


def margin_mse(
    anchors_BxD: jax.Array, texts_BxTxD: jax.Array, margins_BxN: jax.Array, exists_BxN: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The squared error of an example's differences between the scores of positive and negatives, the mean of
    its negatives; and whether its positive has the highest score, [B] float32 both.

    Hofstätter et al. (2020), arXiv 2010.02666, equation 4. N = T - 1 negatives.

    Args:
      margins_BxN: the teacher's differences.
    """
    scores_BxT = jnp.einsum("bd,btd->bt", anchors_BxD, texts_BxTxD, precision=jax.lax.Precision.HIGHEST)
    found_BxN = scores_BxT[:, :1] - scores_BxT[:, 1:]
    square_BxN = jnp.where(exists_BxN, jnp.square(found_BxN - margins_BxN), 0)
    hit_B = jnp.all((found_BxN > 0) | ~exists_BxN, axis=1).astype(jnp.float32)
    return square_BxN.sum(axis=1) / jnp.maximum(exists_BxN.sum(axis=1), 1), hit_B
