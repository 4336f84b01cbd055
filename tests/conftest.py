"""Eight fake CPU devices, a small corpus of real English, and what is prepared from it once for all tests."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests compile the same steps again and again, in this process and in others: share them for this run.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the variable
    COMPILATION_CACHE = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILATION_CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

from bert_jax.config import (
    BertConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    MaskingConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)
from bert_jax.objectives import OBJECTIVES
from bert_jax.tasks import TASKS
from bert_jax.training.network import Network
from data_pipeline import tokenizer
from data_pipeline.prepare import prepare
from tests.helpers.configs import recipe_of
from tests.helpers.data import read_batches, real_documents
from tests.helpers.folders import write_folder


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 real documents in a text file."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join("\n".join(lines) for lines in real_documents(120)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def config(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny run of real text, packed rows, everything switched on; its dataset is prepared."""
    data = DataConfig(
        source=f"files:{corpus_file}",
        dir=str(tmp_path_factory.mktemp("prepared") / "data"),
        sequence_length=64,
        max_sequences_per_row=3,
        short_sequence_probability=0.5,
        validation_fraction=0.1,
        tokenizer=TokenizerConfig(vocab_size=700),
        masking=MaskingConfig(max_predictions=12),
    )
    prepare(data)
    return Config(
        model=BertConfig(
            vocab_size=700,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
        ),
        data=data,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
        train=TrainConfig(steps=20, global_batch_size=16, log_every=1, eval_every=10, eval_batches=3),
        checkpoint=CheckpointConfig(every=100),
    )


@pytest.fixture(scope="session")
def folder_of(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder_of(kind): a model for an objective or a task, with lively weights, as Hugging Face has it."""

    def make(kind: str, labels: tuple[str, ...] = ("O", "<b>", "B-PER")) -> Path:
        objective = next(found for found in (*OBJECTIVES, *TASKS) if found.Config.kind == kind)
        fields = {field.name for field in dataclasses.fields(objective.Config)}
        settings = objective.Config(**({"labels": labels} if "labels" in fields else {}))
        words = tokenizer.load(Path(config.data.dir) / "tokenizer")
        network = Network(config.model, objective, settings)
        return write_folder(tmp_path_factory.mktemp(kind), network, words)

    return functools.cache(make)


@pytest.fixture(scope="session")
def SentenceTransformer() -> Any:
    """Their class, whose import takes a while."""
    import sentence_transformers

    return functools.partial(sentence_transformers.SentenceTransformer, device="cpu", local_files_only=True)


OPTIMIZED = {
    *("objectives", "ops", "parity", "test_optimizer", "test_stable_adamw", "test_muon"),
    *("test_moving_average", "test_step", "test_collectives", "test_network"),
}
"""Folders and files that compare numbers, gradients or programs with a reference."""


@pytest.fixture(scope="module", autouse=True)
def normal_passes(request: pytest.FixtureRequest) -> Iterator[None]:
    """There XLA compiles as it does for users, though `make test` has its costly passes off."""
    places = {request.path.stem, *request.path.relative_to(request.config.rootpath).parts}
    if not jax.config.read("jax_disable_most_optimizations") or not OPTIMIZED & places:
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """No dtype is promoted silently. Not for all tests: Optax's own code promotes."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def recipe(config: Config, tmp_path: Path) -> Path:
    """The tiny config as a config file."""
    path = tmp_path / "recipe.py"
    path.write_text(recipe_of(config))
    return path


@pytest.fixture
def batches(config: Config) -> Callable[..., list[dict[str, np.ndarray]]]:
    """batches(n, ...) reads the first n training batches of the tiny run."""

    def read(count: int, config: Config = config, **arguments: object) -> list[dict[str, np.ndarray]]:
        return read_batches(config, count, **arguments)

    return read


SLOWEST = ("test_step", "test_loop", "test_finetune", "faults", "test_extensions", "test_loader", "test_cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes go first: in the end neither of two processes waits long for the other."""

    def place(item: pytest.Item) -> int:
        return next(
            (i for i, name in enumerate(SLOWEST) if name in item.path.parts or name == item.path.stem), 99
        )

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Where the time went, the most last: a log that is cut keeps its end."""
    seconds: collections.Counter[str] = collections.Counter()
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.location[0]] += report.duration
    if seconds.total() < 60:
        return
    terminalreporter.section("seconds by file")
    for file, took in reversed(seconds.most_common(40)):
        terminalreporter.write_line(f"{took:6.0f}  {file}")
