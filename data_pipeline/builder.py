"""Rows to a TFDS dataset of ArrayRecord files, and the names of its features.

A record holds the tokens of one row, end to end, and the lengths to take them apart again. Tokens are stored
as raw bytes (uint16 where the vocabulary allows it): parsing them is then a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.packing import Row

TOKENS, LENGTHS, LABELS = "token_ids", "segment_lengths", "nsp_labels"

Shards = Sequence[Callable[[], Iterator[Row]]]


def token_dtype(vocab_size: int) -> type[np.generic]:
    """Type of the stored token ids."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


def example(row: Row, *, dtype: type[np.generic]) -> dict[str, np.ndarray]:
    """One record: all tokens, (A, B) lengths of each packed sequence, next-sentence labels."""
    return {
        TOKENS: np.concatenate([np.asarray(sequence.token_ids, dtype) for sequence in row]),
        LENGTHS: np.array(
            [(sequence.first_length, len(sequence.token_ids) - sequence.first_length) for sequence in row],
            np.uint16,
        ).reshape(-1),
        LABELS: np.array([sequence.label for sequence in row], np.uint8),
    }


def empty_record() -> bytes:
    """A record of a row without tokens, as it is stored."""
    import tensorflow as tf

    empty = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b""]))
    features = tf.train.Features(feature=dict.fromkeys((TOKENS, LENGTHS, LABELS), empty))
    return tf.train.Example(features=features).SerializeToString()


class PretrainingRows(tfds.core.ShardBasedBuilder):
    """The dataset that `bert-jax prepare` writes and `tfds.builder_from_directory` opens.

    Shard-based, because TFDS's other builders gather a split in memory where they must keep its order.

    Args:
      splits: for each split, a function for each of its shards, called in turn, that yields rows in order.
      dtype: type of the stored token ids.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, splits: Mapping[str, Shards], dtype: type[np.generic], **kwargs: Any):
        self._rows = splits
        self._dtype = dtype
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def raw(dtype: type[np.generic]) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)

        return tfds.core.DatasetInfo(
            builder=self,
            description="Rows of token ids for pretraining, unmasked.",
            features=tfds.features.FeaturesDict(
                {TOKENS: raw(self._dtype), LENGTHS: raw(np.uint16), LABELS: raw(np.uint8)}
            ),
            disable_shuffling=True,  # the loader permutes; the order on disk is that of the corpus
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            name: [partial(self._examples, shard) for shard in shards] for name, shards in self._rows.items()
        }

    def _examples(self, shard: Callable[[], Iterator[Row]]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for number, row in enumerate(shard()):
            yield number, example(row, dtype=self._dtype)
