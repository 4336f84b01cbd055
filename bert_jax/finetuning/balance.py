"""The texts of a batch dealt out to its rows anew, so that all rows are about as long: less padding.

For tasks whose texts have nothing to do with each other before the loss (`Features.texts_may_move`). Any rows
can be in one batch, where rows of like length (lengths.py) would have negatives of like length.

Shapes in names: N rows, B rows of a batch, P texts of a row at most, R rows of a batch on this process.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from bert_jax.finetuning import lengths


class Balanced(lengths.Layout):
    """Rows in random batches; `text_places` of a batch says where its texts are."""

    @functools.cached_property
    def known(self) -> list[int]:
        count = max(1, len(self._lengths_NxP) // self.batch_size)
        first_epoch = np.resize(self.order(0), (count, self.batch_size))
        longest = np.array([self._filled(deal(self._lengths_NxP[r]), r).max() for r in first_epoch])
        most = lengths.columns_for(int(longest.max()), most=self.columns)
        found = lengths.widths(longest, columns=most, batches=self.batches)
        # The last one is for a batch of a later epoch that may need it.
        return found if most == self.columns else [*found, self.columns]

    @functools.cached_property
    def _lengths_NxP(self) -> np.ndarray:
        return self.arrays["segment_lengths"].sum(axis=2)

    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self._lengths_NxP))

    def batch(self, records: np.ndarray, rows: Sequence[int]) -> dict[str, np.ndarray]:
        places_BxP = deal(self._lengths_NxP[records])
        columns = int(lengths.fitting(self._filled(places_BxP, records).max(), self.known))
        here, P = np.array(rows), places_BxP.shape[1]
        # At each place of the rows here: the text there, counted through the batch as it came.
        texts_RxP = np.argsort(places_BxP, axis=None).reshape(-1, P)[here]
        segment_lengths = self.arrays["segment_lengths"][records].reshape(-1, 2)[texts_RxP]
        found = {name: array[records[here]] for name, array in self.arrays.items() if name != "token_ids"}
        return found | {
            "token_ids": self._tokens(records, texts_RxP, columns=columns),
            "segment_lengths": segment_lengths,
            "text_places": places_BxP[here],
        }

    def _filled(self, places_BxP: np.ndarray, records: np.ndarray) -> np.ndarray:
        """Tokens of each row, [B]."""
        rows_BxP, sizes_BxP = places_BxP // places_BxP.shape[1], self._lengths_NxP[records]
        return np.bincount(rows_BxP.ravel(), sizes_BxP.ravel(), minlength=len(records)).astype(np.int64)

    def _tokens(self, records: np.ndarray, texts_RxP: np.ndarray, *, columns: int) -> np.ndarray:
        """token_ids of rows with these texts one after the other, [R, columns]."""
        rows, sizes_BxP = self.arrays["token_ids"][records], self._lengths_NxP[records]
        starts_BxP, P = np.cumsum(sizes_BxP, axis=1) - sizes_BxP, sizes_BxP.shape[1]
        token_ids = np.zeros((len(texts_RxP), columns), np.int32)
        for row, texts in zip(token_ids, texts_RxP, strict=True):
            end = 0
            for b, p in zip(*divmod(texts, P), strict=True):
                start, size = starts_BxP[b, p], sizes_BxP[b, p]
                row[end : end + size] = rows[b, start : start + size]
                end += size
        return token_ids


def deal(lengths_BxP: np.ndarray) -> np.ndarray:
    """[B, P] int32: the place that each text gets, its row times P and its place in that row.

    In P rounds, from the longest text to the shortest; in each the emptiest row gets the longest one. Where
    that makes no row shorter, texts stay where they are.
    """
    B, P = lengths_BxP.shape
    longest_first = np.argsort(-lengths_BxP, axis=None, kind="stable").reshape(P, B)
    sizes, filled = lengths_BxP.ravel(), np.zeros(B, np.int64)
    places = np.empty(B * P, np.int32)
    for turn, texts in enumerate(longest_first):
        rows = np.argsort(filled, kind="stable")
        places[texts] = rows * P + turn
        filled[rows] += sizes[texts]
    if filled.max() >= lengths_BxP.sum(axis=1).max():
        places = np.arange(B * P, dtype=np.int32)
    return places.reshape(B, P)
