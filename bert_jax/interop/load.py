"""A trained model, to use: of a folder that Hugging Face reads, or of a workdir."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import tokenizers

from bert_jax.config import Config, ModelConfig, TaskConfig
from bert_jax.config.files import load_json
from bert_jax.interop import huggingface
from bert_jax.models.bert import Params
from bert_jax.workdir.checkpoint import check_has_run, read_state, step_to_use, steps_of
from data_pipeline.config import read_object
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import load_fast, settings

TASK = "task_specific_params"
"""Where Hugging Face's config.json keeps what a program wants to know of a task."""

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
      FileNotFoundError, UserError: there is none, or it is damaged.
    """
    if steps_of(directory):
        config, params, _ = load_workdir(directory)
        return Trained(config.model, params, load_fast(directory / "tokenizer"), config.task)
    if (directory / huggingface.CONFIG_FILE).is_file() and not (directory / "checkpoints").is_dir():
        model, params = huggingface.load(directory)
        return Trained(model, params, load_fast(directory), _task(directory, model))
    raise FileNotFoundError(f"{directory} is neither an exported directory nor a workdir with a checkpoint")


def _task(directory: Path, model: ModelConfig) -> TaskConfig:
    """Of an exported folder: what `export` noted, and else rows as long as the tokenizer says, in Hugging
    Face's `model_max_length`. It says a number beyond reason where it does not know.
    """
    told = settings(directory).get("model_max_length")
    most = model.max_position_embeddings
    length = int(told) if isinstance(told, int | float) and told <= most else min(LONGEST, most)
    noted = (read_object(directory / huggingface.CONFIG_FILE).get(TASK) or {}).get("bert-jax", {})
    try:
        return TaskConfig(**{"sequence_length": length, "stride": length // 4} | noted)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{directory / huggingface.CONFIG_FILE} has {TASK} that do not fit: {error}"
        ) from error


def load_workdir(workdir: Path, *, step: int | None = None) -> tuple[Config, Params, int]:
    """Config, parameters (on one device) and step of a run's checkpoint. If `step` is None: of a pretraining
    the latest one, of a fine-tuning the best.

    Raises:
      FileNotFoundError: there is no run or no such checkpoint.
    """
    check_has_run(workdir)
    config = load_json(workdir / "config.json")
    # A kernel for a chip that may not be here, and for rows as the training had them.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="auto"))
    if step is None:
        step = step_to_use(workdir, config)
    state = read_state(workdir, config, step=step)
    return config, state.params, int(state.step)
