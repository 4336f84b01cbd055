"""The rows of a task: what a fine-tuning trains on, and the logits of a network for them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import TaskConfig
from bert_jax.finetuning import lengths
from bert_jax.finetuning.balance import Balanced
from bert_jax.interop.source import copy_tokenizer
from bert_jax.models.encoder import Batch
from bert_jax.objectives.objective import Sums
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.precision import precision
from bert_jax.parallel import runtime, sharding
from bert_jax.parallel.processes import assert_processes_agree
from bert_jax.run.data import Evaluator
from bert_jax.run.prefetch import run_all
from bert_jax.tasks import task_of
from bert_jax.tasks.features import Features
from bert_jax.training import network as networks
from bert_jax.training.microbatches import in_parts
from bert_jax.training.network import Network, Params
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.bucket import source_folder
from bert_jax.workdir.provenance import facts
from data_pipeline.batch import unpack
from data_pipeline.tokenizer import Tokenizer


class Split(NamedTuple):
    """Examples, and the rows made of them."""

    examples: list[Any]
    features: Features


class TaskData:
    """The `TrainingData` of a task, all in memory. Each epoch has the rows in another order, a function of
    the seed; and little padding, for which there are two ways (finetuning/lengths.py, balance.py)."""

    has_validation = True
    baselines: dict[str, float] = {}  # noqa: RUF012 (as in TrainingData; never changed)

    def __init__(self, spec: RunSpec, *, train: Split, validation: Split):
        config = spec.config
        assert config.init.source is not None
        self._source = source_folder(config.init.source)
        self._validation, self._count = validation, len(train.features.examples_N)
        layout = Balanced if train.features.texts_may_move else lengths.ByLength
        self._layout = layout(
            train.features.arrays,
            columns=max(split.features.shape.sequence_length for split in (train, validation)),
            batches=spec.steps,
            batch_size=config.train.global_batch_size,
            seed=config.train.seed,
        )
        if len(self._layout.known) > 1:
            runtime.keep_freed_memory(False)
        self.fingerprint = _digest(train.features.arrays, validation.features.arrays)
        assert_processes_agree(facts(config) | {"the examples": f"of fingerprint {self.fingerprint[:12]}"})

    @contextmanager
    def batches(
        self, *, batch_size: int, rows: Sequence[int], step: int, position: int
    ) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        def read() -> Iterator[dict[str, np.ndarray]]:
            first = position
            while True:
                yield self._layout.batch(np.array(self.records(range(first, first + batch_size))), rows)
                first += batch_size

        yield read()

    def records(self, positions: Sequence[int]) -> list[int]:
        places = (divmod(position, self._count) for position in positions)
        return [int(self._order(epoch)[place]) for epoch, place in places]

    def evaluator(self, spec: RunSpec, mesh: Mesh) -> Evaluator:
        task, settings = task_of(spec.network.settings), spec.network.settings
        examples, features = self._validation
        batch_size = spec.config.train.global_batch_size
        parts = spec.config.train.microbatches
        apply = compile_apply(spec.network, spec.kernels, mesh, microbatches=parts)

        def run(params: Params, stop: Callable[[], bool]) -> dict[str, float] | None:
            found = logits_of(
                features.arrays,
                params,
                apply=apply,
                mesh=mesh,
                batch_size=batch_size,
                known=self._layout.known,
                stop=stop,
            )
            if found is None:
                return None
            logits, loss = found
            predictions = task.predict(examples, features, logits, settings)
            return {"loss": loss} | task.score(examples, predictions, settings)

        return run

    def write_tokenizer(self, directory: Path) -> None:
        copy_tokenizer(self._source, directory)

    @functools.lru_cache(maxsize=2)  # noqa: B019 it lives as long as its run
    def _order(self, epoch: int) -> np.ndarray:
        return self._layout.order(epoch)


Apply = Callable[[Params, Batch], tuple[jax.Array, Sums]]


def compile_apply(network: Network, kernels: Kernels, mesh: Mesh, *, microbatches: int = 1) -> Apply:
    """The logits of a batch, on all devices, and the sums of its loss where it has labels.

    Args:
      microbatches: parts of the batch that go through the network one after the other.
    """
    task, settings = task_of(network.settings), network.settings

    def apply(params: Params, batch: Batch) -> tuple[jax.Array, Sums]:
        with precision(network.model.dtype):
            batch, both = unpack(batch), networks.modules(network, params)

            def logits_of_part(part: Batch) -> jax.Array:
                return task.logits(settings, both.objective, both.encoder, part, kernels=kernels)

            logits = in_parts(logits_of_part, batch, microbatches)
            return logits, task.loss_sums(settings, logits, batch) if "labels" in batch else {}

    return jax.jit(apply, out_shardings=sharding.replicated(mesh))


def logits_of(
    arrays: Mapping[str, np.ndarray],
    params: Params,
    *,
    apply: Apply,
    mesh: Mesh,
    batch_size: int,
    known: Sequence[int],
    stop: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, float] | None:
    """Logits of all rows, [N, ...], and the mean loss, 0 where they have no labels.

    None if `stop`, asked before each batch, says so.

    Args:
      known: the widths that batches may have.
    """
    count, S = arrays["token_ids"].shape
    widths = lengths.fitting(lengths.lengths_of(arrays), known)
    by_width = np.argsort(widths, kind="stable")
    mine = np.array(sharding.local_rows(mesh, batch_size))

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, count, batch_size):
            rows = first + mine
            exists = rows < count
            columns = int(widths[by_width[first : first + batch_size]].max())
            batch = lengths.batch(arrays, by_width[np.where(exists, rows, first)], columns=columns)
            if "weights" in batch:  # the rows that fill the last batch up weigh nothing
                exists = exists.reshape(-1, *[1] * (batch["weights"].ndim - 1))
                batch["weights"] = np.where(exists, batch["weights"], np.float32(0))
            yield batch

    place = functools.partial(sharding.global_batch, mesh=mesh, batch_size=batch_size)
    found = run_all(functools.partial(apply, params), batches(), place, stop=stop)
    if found is None:
        return None
    sorted_logits = np.concatenate([_widened(np.asarray(logits), S) for logits, _ in found])[:count]
    logits = np.empty_like(sorted_logits)
    logits[by_width] = sorted_logits
    total, weight = (sum(float(sums["loss"][i]) for _, sums in found if sums) for i in range(2))
    return logits, total / max(weight, 1)


def _widened(logits: np.ndarray, columns: int) -> np.ndarray:
    """Logits of tokens, [B, S, C], with zeros for the padding that a batch was without."""
    if logits.ndim < 3:
        return logits
    return np.pad(logits, [(0, 0), (0, columns - logits.shape[1]), (0, 0)])


def make_splits(settings: TaskConfig, splits: Sequence[list[Any]], tokenizer: Tokenizer) -> list[Split]:
    """Examples with rows as the task makes them, of as many columns as the longest example needs."""
    task = task_of(settings)
    features = [task.featurize(examples, tokenizer, settings) for examples in splits]
    used = max(int(lengths.lengths_of(f.arrays).max()) for f in features)
    most = max(f.shape.sequence_length for f in features)
    columns = lengths.columns_for(used, most=most)
    return [Split(e, _cut(f, columns)) for e, f in zip(splits, features, strict=True)]


def _cut(features: Features, columns: int) -> Features:
    S = features.arrays["token_ids"].shape[1]
    arrays = {name: lengths.cut(array, columns=columns, of=S) for name, array in features.arrays.items()}
    return features._replace(arrays=arrays, places=lengths.cut(features.places, columns=columns, of=S))


def _digest(*splits: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for arrays in splits:
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()
