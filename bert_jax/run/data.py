"""The data of a run: rows to train on, and held-out ones to judge it by."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from bert_jax.parallel import sharding
from bert_jax.run.evaluate import compile_eval_step, evaluate
from bert_jax.run.preflight import open_dataset
from bert_jax.training.network import Params
from bert_jax.training.run_spec import RunSpec
from data_pipeline.loader import Loader, record_numbers
from data_pipeline.storage import dataset_folder

Batches = AbstractContextManager[Iterator[dict[str, np.ndarray]]]

Evaluator = Callable[[Params, Callable[[], bool]], dict[str, float] | None]
"""Parameters, `with_constants` -> held-out metrics; None once the second argument, asked before each batch,
says stop."""


class TrainingData(Protocol):
    """The rows of a pretraining (here) or of a task (finetuning/data.py); the same on all processes."""

    fingerprint: str
    """Hash of all that decides what is in the rows."""
    has_validation: bool
    baselines: dict[str, float]
    """What a model reaches that knows nothing of the context."""

    def batches(self, *, batch_size: int, rows: Sequence[int], step: int, position: int) -> Batches:
        """Endless: of each global batch the given `rows`. The first batch is that of step `step` + 1, and its
        first row is at `position` in the stream of rows."""

    def records(self, positions: Sequence[int]) -> list[int]:
        """The records of the data at these positions of the stream of rows."""

    def evaluator(self, spec: RunSpec, mesh: Mesh) -> Evaluator: ...

    def write_tokenizer(self, directory: Path) -> None:
        """Into a folder, new or not, for Hugging Face's AutoTokenizer."""


class PretrainingData:
    """The rows of a prepared dataset, masked as they are read."""

    def __init__(self, spec: RunSpec):
        """Raises FileNotFoundError or UserError if data.dir does not hold what the config says."""
        self._data, self._seed = spec.config.data, spec.config.train.seed
        self._manifest = open_dataset(spec)
        self.fingerprint = self._manifest.fingerprint
        self.has_validation = "validation" in self._manifest.rows
        self.baselines = self._manifest.baselines

    def batches(self, *, batch_size: int, rows: Sequence[int], step: int, position: int) -> Batches:
        return Loader(
            self._data,
            split="train",
            batch_size=batch_size,
            rows=rows,
            seed=self._seed,
            step=step,
            position=position,
        )

    def records(self, positions: Sequence[int]) -> list[int]:
        return record_numbers(self._data, self._manifest, positions, seed=self._seed)

    def evaluator(self, spec: RunSpec, mesh: Mesh) -> Evaluator:
        step = compile_eval_step(spec, mesh)
        batch_size = spec.config.train.global_batch_size
        rows = sharding.local_rows(mesh, batch_size)

        @functools.cache
        def loader() -> Loader:
            return Loader(self._data, split="validation", batch_size=batch_size, rows=rows)

        def run(params: Params, stop: Callable[[], bool]) -> dict[str, float] | None:
            with loader() as batches:
                return evaluate(spec, params, step=step, mesh=mesh, loader=batches, stop=stop)

        return run

    def write_tokenizer(self, directory: Path) -> None:
        shutil.copytree(dataset_folder(self._data.dir) / "tokenizer", directory, dirs_exist_ok=True)
