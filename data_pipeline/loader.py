"""Prepared dataset to batches: a pure function of the position in the stream of rows, run ahead by tf.data.

    position = first + batch * batch_size + row
    epoch = position // N;   record = permute(position % N, seed, epoch)

Where sources have weights, each has a permutation of its own, and `mix` says whose turn a position is. The
data state of a run is one integer, the position. A seek costs nothing, and any number of processes, each
reading its own rows, build the same global batch.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipeline.batch import Batch
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest
from data_pipeline.records import EMPTY, LABELS, LENGTHS, TOKENS, token_dtype
from data_pipeline.storage import dataset_folder

EVALUATION_SEED = 0
"""Masks of the validation rows: the same at every evaluation of every run."""

AHEAD = 16
"""Batches that are being made or wait to be taken; TensorFlow has a thread a core to make them."""


class CorruptDataError(UserError):
    """A record of the prepared dataset cannot be read."""


class Loader:
    """Iterates over the batches of one split. A context manager: leaving it ends the reading threads, and
    entered again it begins anew.

    Args:
      config: `config.dir` is the prepared dataset.
      split: "train" permutes anew every epoch and never ends; "validation" reads every record once, in order,
        always masked alike (`evaluation_masking`), and fills the last batch with rows of padding.
      batch_size: rows in the global batch.
      rows: the rows of the global batch that this process wants, all of them if None.
      seed: of order and masks; not used for validation.
      step: steps done before the first batch; a masking rate may follow it.
      position: where in the stream of rows the first batch begins; None: after `step` batches of this size.

    Raises:
      FileNotFoundError, UserError: there is no such dataset, or `config` does not fit it.
      CorruptDataError: while iterating, if a record cannot be read.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        split: str,
        batch_size: int,
        rows: Sequence[int] | None = None,
        seed: int = 0,
        step: int = 0,
        position: int | None = None,
    ):
        self.manifest = Manifest.load(dataset_folder(config.dir))
        self.manifest.check(config)
        if split not in self.manifest.rows:
            raise UserError(f"data.dir {config.dir} has no {split} split; prepare it with one")
        self._config = config
        rows = range(batch_size) if rows is None else rows
        first = step * batch_size if position is None else position
        self._failures: list[Exception] = []
        self._dataset = _dataset(
            config, self.manifest, split, batch_size, rows, seed, step, first, self._failures
        )
        self._iterator: Iterator[Batch] | None = self._dataset.as_numpy_iterator()

    def __enter__(self) -> Loader:
        if self._iterator is None:
            self._iterator = self._dataset.as_numpy_iterator()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        assert self._iterator is not None, "the loader is closed"
        batch = next(self._iterator)
        if self._failures:  # of this batch, or of one that is being read ahead
            raise CorruptDataError(
                f"data.dir {self._config.dir}: a record cannot be read ({self._failures[0]}); "
                "the files are damaged: prepare the dataset again"
            ) from self._failures[0]
        return batch

    def close(self) -> None:
        """Ends the reading threads. Without this, TensorFlow may hang at the interpreter's exit."""
        self._iterator = None
        gc.collect()


def _dataset(
    config: DataConfig,
    manifest: Manifest,
    split: str,
    batch_size: int,
    rows: Sequence[int],
    seed: int,
    step: int,
    first: int,
    failures: list[Exception],
) -> Any:
    """A tf.data.Dataset of the batches. A record that cannot be read leaves its error in `failures`, and an
    empty row: TensorFlow would print the traceback of an exception from every reading thread."""
    tf = _tensorflow()
    from data_pipeline import masking

    records = _records(config, manifest, split)
    count = len(records)
    masks = config.masking_of(split)
    word_marks = None if masks.strategy == "token" else _word_marks(config)
    training = split == "train"
    seed = seed if training else EVALUATION_SEED
    batches = tf.int64.max if training else -(-count // batch_size)

    def read(indices: np.ndarray) -> np.ndarray:
        try:
            return np.array(records.__getitems__(indices.tolist()), dtype=object)
        except (OSError, RuntimeError, ValueError) as error:  # what ArrayRecord raises for damaged files
            failures.append(error)
            return np.array([EMPTY] * len(indices), dtype=object)

    def make(batch: Any) -> dict[str, Any]:
        positions = first + batch * batch_size + tf.constant(list(rows), tf.int64)
        indices = _record_at(positions, config, manifest, seed) if training else positions % count
        raw = tf.numpy_function(read, [indices], tf.string, stateful=False)
        tokens, lengths, labels = _parse(tf.ensure_shape(raw, [len(rows)]), config, manifest)
        if not training:  # past the last record: padding
            lengths *= tf.cast(positions < count, tf.int32)[:, tf.newaxis, tf.newaxis]
        masked = masking.mask(
            tokens,
            tf.reduce_sum(lengths, axis=[1, 2]),
            positions,
            step=step + batch,
            config=masks,
            seed=seed,
            vocab_size=manifest.vocab_size,
            special_tokens=manifest.special_tokens,
            word_marks=word_marks,
        )
        return masked | {"segment_lengths": lengths, "pair_labels": labels}

    dataset = tf.data.Dataset.range(batches)
    graph = tf.autograph.experimental.do_not_convert(make)  # it has no Python control flow on tensors
    dataset = dataset.map(graph, num_parallel_calls=AHEAD, deterministic=True)
    # An iterator that tunes itself can take a minute to end, with Python's lock in its hand: its thread
    # sleeps longer and longer, and on a busy machine may miss that it was told to end (OptimizeLoop in
    # TensorFlow's core/framework/model.cc). By then a process that was told to stop has been killed.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def record_numbers(
    config: DataConfig, manifest: Manifest, positions: Sequence[int], *, seed: int
) -> list[int]:
    """The records of the training split at these positions of the stream."""
    tf = _tensorflow()
    return _record_at(tf.constant(list(positions), tf.int64), config, manifest, seed).numpy().tolist()


def _record_at(positions: Any, config: DataConfig, manifest: Manifest, seed: int) -> Any:
    """[n] int64 places in the stream of training rows -> [n] int64 records."""
    if config.weights:
        return mix(positions, seed=seed, rows=manifest.rows_by_source["train"], weights=config.weights)
    count = manifest.rows["train"]
    return permute(positions % count, seed=seed, epoch=positions // count, count=count)


def permute(indices: Any, *, seed: int, epoch: Any, count: Any, stream: Any = 0) -> Any:
    """[n] int64 in, [n] int64 out: place in an epoch -> record, a permutation of range(count).

    Every seed, epoch and stream has its own; all but the seed may be arrays. The cipher is TensorFlow's
    RandomIndexShuffle. A golden test pins its values: the op is experimental.
    """
    import tensorflow as tf

    key = tf.stack([epoch * 0 + seed % 2**63, epoch, epoch * 0 + stream], axis=1)
    last = tf.convert_to_tensor(count, tf.int64) - 1
    return tf.raw_ops.RandomIndexShuffle(index=indices, seed=key, max_index=last, rounds=4)


SLOTS = 10_000
"""Rows of a cycle of a mixture. Over each cycle the shares of the sources are exact."""


def mix(positions: Any, *, seed: int, rows: Sequence[int], weights: Sequence[float]) -> Any:
    """[n] int64 positions -> [n] int64 records, of sources whose rows lie one after the other.

    A source is read in epochs of its own, each a permutation of its rows.
    """
    import tensorflow as tf

    shares = tf.constant(slots(weights), tf.int64)
    ends = tf.cumsum(shares)
    cycle = positions // SLOTS
    slot = permute(positions % SLOTS, seed=seed, epoch=cycle, count=SLOTS, stream=1)
    source = tf.searchsorted(ends, slot, side="right")
    # Index of the row within its source: those of earlier cycles, and the slots before it in this one.
    place = cycle * tf.gather(shares, source) + slot - tf.gather(ends - shares, source)
    count = tf.gather(tf.constant(rows, tf.int64), source)
    first = tf.gather(tf.cumsum(tf.constant(rows, tf.int64), exclusive=True), source)
    stream = 2 + tf.cast(source, tf.int64)
    return first + permute(place % count, seed=seed, epoch=place // count, count=count, stream=stream)


def slots(weights: Sequence[float]) -> list[int]:
    """How many of SLOTS each weight gets: its share, rounded so that they add up (largest remainders)."""
    exact = np.asarray(weights) * SLOTS / sum(weights)
    shares = np.floor(exact).astype(int)
    for index in np.argsort(shares - exact, kind="stable")[: SLOTS - shares.sum()]:
        shares[index] += 1
    return shares.tolist()


def _parse(raw: Any, config: DataConfig, manifest: Manifest) -> tuple[Any, Any, Any]:
    """Records to tokens [B, S], lengths [B, P, 2] and labels [B, P], int32; 0 where there is none."""
    import tensorflow as tf

    size, packed = config.sequence_length, config.max_sequences_per_row
    feature = tf.io.FixedLenFeature([], tf.string)
    fields = tf.io.parse_example(raw, dict.fromkeys((TOKENS, LENGTHS, LABELS), feature))

    def decode(name: str, dtype: Any, length: int) -> Any:
        dtype = tf.as_dtype(dtype)
        return tf.cast(tf.io.decode_raw(fields[name], dtype, fixed_length=length * dtype.size), tf.int32)

    lengths = decode(LENGTHS, np.uint16, 2 * packed)
    return (
        decode(TOKENS, token_dtype(manifest.vocab_size), size),
        tf.reshape(lengths, [-1, packed, 2]),
        decode(LABELS, np.uint8, packed),
    )


def _records(config: DataConfig, manifest: Manifest, split: str) -> Any:
    """Random access to the raw records of a split, in the order they were written."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    paths = sorted(dataset_folder(config.dir).glob(f"*-{split}.array_record-*"))
    try:
        records = ArrayRecordDataSource([str(path) for path in paths])
    except (OSError, RuntimeError, ValueError) as error:
        raise CorruptDataError(
            f"data.dir {config.dir}: the {split} files cannot be opened ({error}); prepare the dataset again"
        ) from error
    if len(records) != manifest.rows[split]:
        raise CorruptDataError(
            f"data.dir {config.dir}: the {split} files hold {len(records)} rows, the manifest says "
            f"{manifest.rows[split]}; prepare the dataset again"
        )
    return records


def _word_marks(config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Those of the tokenizer that the dataset was prepared with."""
    from data_pipeline import tokenizer

    return tokenizer.load(dataset_folder(config.dir) / "tokenizer").word_marks


def _tensorflow() -> Any:
    """TensorFlow for input only: kept off the accelerators, which are JAX's."""
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf
