"""Models that make vectors of texts: as folders, as runs, and what they make."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert_jax.config import BertConfig, Config, EmbeddingConfig, EncoderConfig, InitConfig, ModelConfig
from bert_jax.inference.vectors import Vectorizer
from bert_jax.interop.load import load_embedder
from bert_jax.objectives.objective import RowShape
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import embedding
from bert_jax.training.network import Network
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import init_state
from bert_jax.workdir import run_files
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.progress import Progress
from data_pipeline import tokenizer
from tests.helpers import folders
from tests.helpers.data import real_documents

LONGEST = 48
"""Tokens of a text: fewer than some of TEXTS have."""

_lines = [line for document in real_documents(12) for line in document if line.strip()]
TEXTS = [*_lines[:20], "a", "東京 café", " ".join(_lines[20:24]), *_lines[24:30]]
"""Real ones of many lengths."""


def write_folder(
    folder: Path,
    config: Config,
    settings: EmbeddingConfig,
    *,
    model: EncoderConfig | None = None,
    dimensions: int | None = None,
) -> Path:
    """A folder for SentenceTransformer, with the tokenizer of `config`."""
    network = Network(model or config.model, embedding, settings)
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    return folders.write_folder(folder, network, words, dimensions=dimensions)


def embedding_spec(config: Config, settings: EmbeddingConfig) -> RunSpec:
    """What follows from a fine-tuning of its encoder for embeddings."""
    assert isinstance(config.model, BertConfig)
    return RunSpec(
        config=Config(model=ModelConfig(), task=settings, init=InitConfig(source="elsewhere")),
        network=Network(config.model, embedding, settings),
        rows=RowShape(settings.sequence_length),
        steps=2,
        warmup_steps=0,
        eval_every=1,
        checkpoint_every=1,
        best=embedding.metrics(settings)[0],
        kernels=PLAIN,
    )


def write_run(workdir: Path, config: Config, spec: RunSpec) -> Path:
    """A workdir with a checkpoint and the tokenizer of `config`, without a training."""
    workdir.mkdir()
    run_files.write(spec, workdir)
    shutil.copytree(Path(config.data.dir) / "tokenizer", workdir / "tokenizer")
    with Checkpoints(workdir, spec) as checkpoints:
        checkpoints.save(0, init_state(spec)._replace(params=folders.lively(spec.network)), Progress())
    return workdir


def vectors_of(
    folder: Path, texts: Sequence[str] = TEXTS, *, prompt: str | None = None, dimensions: int | None = None
) -> np.ndarray:
    """What we make of texts."""
    make = Vectorizer(load_embedder(folder), dimensions=dimensions)
    return np.concatenate([vectors.array_NxD for vectors in make(texts, prompt=prompt, name="test")])


def shapes(config: Config) -> dict[str, int]:
    """The sizes of its encoder, for one of another kind."""
    names = [field.name for field in dataclasses.fields(EncoderConfig)]
    return {name: value for name in names if isinstance(value := getattr(config.model, name), int)}
