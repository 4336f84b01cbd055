"""A trained model, to use: of a folder that Hugging Face reads, or of a workdir."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import jax
import tokenizers

from bert_jax import huggingface, sharding
from bert_jax.checkpoint import Checkpoints, best_step, check_has_run, steps_of
from bert_jax.config import Config, MeshConfig, ModelConfig, TaskConfig, load_json
from bert_jax.model import Params
from data_pipeline.tokenizer import load_fast

LONGEST = 512
"""Tokens of a row at most, where it is not known how long those of the training were."""


class Trained(NamedTuple):
    config: ModelConfig
    params: Params
    tokenizer: tokenizers.Tokenizer
    task: TaskConfig
    """How long the rows are that it was trained on, among others."""


def open_trained(directory: Path) -> Trained:
    """The model of an exported folder, or of a workdir's checkpoint: the best one of a fine-tuned model.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is damaged.
    """
    if (directory / huggingface.WEIGHTS_FILE).is_file():
        model, params = huggingface.load(directory)
        return Trained(model, params, load_fast(directory), _task(directory, model))
    if steps_of(directory):
        config, params, _ = load_workdir(directory)
        return Trained(config.model, params, load_fast(directory / "tokenizer"), config.task)
    raise FileNotFoundError(f"{directory} is neither an exported directory nor a workdir with a checkpoint")


def _task(directory: Path, model: ModelConfig) -> TaskConfig:
    """As long rows as the tokenizer of an exported folder says, in Hugging Face's `model_max_length`."""
    file = directory / "tokenizer_config.json"
    fields = {"model_max_length": LONGEST} | (json.loads(file.read_text()) if file.is_file() else {})
    length = int(min(LONGEST, model.max_position_embeddings, fields["model_max_length"]))
    return TaskConfig(sequence_length=length, stride=length // 4)


def load_workdir(workdir: Path, *, step: int | None = None) -> tuple[Config, Params, int]:
    """Config, parameters (on one device) and step of a run's checkpoint. If `step` is None: of a pretraining
    the latest one, of a fine-tuning the best.

    Raises:
      FileNotFoundError: there is no run or no such checkpoint.
    """
    check_has_run(workdir)
    config = load_json(workdir / "config.json")
    if step is None and config.model.head != "pretraining":
        step = best_step(workdir, config)
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices()[:1])
    with Checkpoints(workdir, config, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(mesh, step=step)
    return config, state.params, int(state.step)
