"""How good a search is: what was found for each query, against what is relevant to it. NumPy, without files.

The numbers are those of Sentence Transformers' InformationRetrievalEvaluator, and NDCG is that of trec_eval
where some documents are more relevant than others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NDCG_AT, MRR_AT, MAP_AT = 10, 10, 100
RECALL_AT = (1, 10, 100)
LONGEST = max(NDCG_AT, MRR_AT, MAP_AT, *RECALL_AT)
"""Documents that must be found for a query, where there are so many."""

Relevance = Mapping[int, float]
"""How relevant documents are to a query, by number; those that are not named are not."""


def metrics(found: Sequence[Sequence[int]], relevant: Sequence[Relevance]) -> dict[str, float]:
    """Means over all queries.

    Args:
      found: documents by number, the best first, for each query.
      relevant: for each query one document at least, with a positive number.
    """
    by_query = [_of_query(documents, wanted) for documents, wanted in zip(found, relevant, strict=True)]
    return {name: float(np.mean([values[name] for values in by_query])) for name in by_query[0]}


def _of_query(found: Sequence[int], relevant: Relevance) -> dict[str, float]:
    assert relevant
    assert all(gain > 0 for gain in relevant.values())
    gains = np.array([relevant.get(document, 0.0) for document in found], np.float64)
    hits = gains > 0
    best = np.array(sorted(relevant.values(), reverse=True), np.float64)
    ranks = 1 + np.flatnonzero(hits)
    precisions = np.arange(1, 1 + len(ranks)) / ranks
    return {
        f"ndcg@{NDCG_AT}": _dcg(gains[:NDCG_AT]) / _dcg(best[:NDCG_AT]),
        f"mrr@{MRR_AT}": float(1 / ranks[0]) if len(ranks) and ranks[0] <= MRR_AT else 0.0,
        f"map@{MAP_AT}": float(precisions[ranks <= MAP_AT].sum()) / min(MAP_AT, len(relevant)),
    } | {f"recall@{k}": float(hits[:k].sum()) / len(relevant) for k in RECALL_AT}


def _dcg(gains: np.ndarray) -> float:
    """Discounted cumulative gain (Järvelin and Kekäläinen 2002), with the gain as it is."""
    return float((gains / np.log2(np.arange(2, 2 + len(gains)))).sum())
