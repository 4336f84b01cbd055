"""How well vectors rank texts: the numbers that embeddings are judged by. NumPy, without files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_jax.tasks.requirements import check_installed

BLOCK = 1024
"""Anchors that are compared with all texts at once."""


def cosine(one_D: np.ndarray, other_D: np.ndarray) -> float:
    return float(one_D @ other_D / max(float(np.linalg.norm(one_D) * np.linalg.norm(other_D)), 1e-12))


Scores = Callable[[slice, Sequence[int]], np.ndarray]
"""Some anchors and some texts, by their numbers -> their scores, an array of its own."""


def cosines(anchors_NxD: np.ndarray, texts_MxD: np.ndarray) -> Scores:
    """Those of vectors."""
    anchors_NxD, texts_MxD = _units(anchors_NxD), _units(texts_MxD)
    return lambda rows, columns: anchors_NxD[rows] @ texts_MxD[columns].T


def ranks(
    scores: Scores,
    *,
    anchors: Sequence[str],
    texts: Sequence[str],
    positives: Sequence[str],
) -> np.ndarray:
    """The rank of each anchor's positive among the texts by score, [N], 1 for the highest.

    A text that stands there twice counts once; the anchor's own text does not count, nor does that of another
    positive of the same anchor.

    Args:
      positives: the text that each anchor belongs with.
    """
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        first.setdefault(text, index)
    number = {text: n for n, text in enumerate(first)}
    distinct = list(first.values())
    own: dict[str, list[int]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        own.setdefault(anchor, []).append(number[positive])
    found = np.empty(len(anchors), np.int64)
    for begin in range(0, len(anchors), BLOCK):
        for row, scores_M in enumerate(scores(slice(begin, begin + BLOCK), distinct)):
            anchor, positive = anchors[begin + row], positives[begin + row]
            wanted = scores_M[number[positive]]
            left_out = own[anchor] + ([number[anchor]] if anchor in number else [])
            scores_M[left_out] = -np.inf
            found[begin + row] = 1 + (scores_M > wanted).sum()
    return found


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def correlations(found_N: np.ndarray, truth_N: np.ndarray) -> dict[str, float]:
    """Spearman's and Pearson's, of SciPy; 0.0 where nothing varies, which has no correlation.

    A model that says the same of everything has learned nothing: 0.0 ranks it below any that has, and NaN
    would not compare.
    """
    check_installed("scipy")
    from scipy import stats

    def correlation(statistic: Callable[..., Any]) -> float:
        if np.ptp(truth_N) == 0 or np.ptp(found_N) == 0:
            return 0.0
        return float(statistic(truth_N, found_N).statistic)

    return {"pearson": correlation(stats.pearsonr), "spearman": correlation(stats.spearmanr)}
