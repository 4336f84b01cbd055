"""Exact search: the vectors of a corpus that are closest to each query, a block of both at a time.

Shapes in names: Q queries of a block, C vectors of a block of the corpus, D numbers of a vector, K found.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import MeshConfig
from bert_jax.ops.pooling import normalized
from bert_jax.ops.precision import precision
from bert_jax.parallel import sharding

QUERIES, CORPUS = 1024, 16_384
"""Sizes of blocks: their scores are 64 MB."""

Similarity = Literal["cosine", "dot"]


class Search:
    """The best `k` of a corpus for each query, so far.

    Memory is that of the queries, of what is found for them, and of a block.

    Args:
      queries_NxD: float32.
      k: vectors to be found for each; fewer where the corpus has fewer.
    """

    def __init__(self, queries_NxD: np.ndarray, *, k: int, similarity: Similarity):
        self._mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices())
        self._similarity, self._k, self._seen = similarity, k, 0
        self._count = len(queries_NxD)
        devices = self._mesh.size
        size = min(-(-QUERIES // devices), -(-self._count // devices)) * devices
        self._blocks = []
        for first in range(0, self._count, size):
            block = queries_NxD[first : first + size]
            block = np.pad(block, [(0, size - len(block)), (0, 0)])
            empty = np.full((size, k), -np.inf, np.float32), np.full((size, k), -1, np.int32)
            self._blocks.append(self._placed((block, *empty)))

    def add(self, corpus_NxD: np.ndarray) -> None:
        """Vectors of the corpus that follow those that were added before; they are numbered from 0 on."""
        for first in range(0, len(corpus_NxD), CORPUS):
            block = corpus_NxD[first : first + CORPUS]
            count = len(block)
            # A power of two, so that few sizes are compiled.
            size = min(CORPUS, 1 << (count - 1).bit_length())
            block = jax.device_put(
                np.pad(block, [(0, size - count), (0, 0)]), sharding.replicated(self._mesh)
            )
            self._blocks = [
                (queries, *_better(queries, block, count, self._seen, *best, similarity=self._similarity))
                for queries, *best in self._blocks
            ]
            self._seen += count

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores, float32, and numbers, [N, K] both, the best first; of equal ones the first."""
        k = min(self._k, self._seen)
        scores, numbers = (
            np.concatenate([np.asarray(block[part]) for block in self._blocks])[: self._count, :k]
            for part in (1, 2)
        )
        return scores, numbers

    def _placed(self, arrays: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
        return jax.device_put(arrays, sharding.batch_sharding(self._mesh))


@functools.partial(jax.jit, static_argnames="similarity")
def _better(
    queries_QxD: jax.Array,
    corpus_CxD: jax.Array,
    count: int,
    first: int,
    scores_QxK: jax.Array,
    numbers_QxK: jax.Array,
    *,
    similarity: Similarity,
) -> tuple[jax.Array, jax.Array]:
    """The best of those that are found and of a block.

    Args:
      count: vectors of the block that are not padding.
      first: the number of its first one.
    """
    if similarity == "cosine":
        queries_QxD, corpus_CxD = normalized(queries_QxD), normalized(corpus_CxD)
    with precision(jnp.float32):
        scores_QxC = queries_QxD @ corpus_CxD.T
    scores_QxC = jnp.where((jnp.arange(len(corpus_CxD)) < count)[None], scores_QxC, -jnp.inf)
    # Of equal scores top_k takes the first: those that were found before are in front.
    new, place = jax.lax.top_k(scores_QxC, min(len(corpus_CxD), scores_QxK.shape[1]))
    scores = jnp.concatenate([scores_QxK, new], axis=1)
    numbers = jnp.concatenate([numbers_QxK, first + place], axis=1)
    scores_QxK, place_QxK = jax.lax.top_k(scores, scores_QxK.shape[1])
    return scores_QxK, jnp.take_along_axis(numbers, place_QxK, axis=1)
