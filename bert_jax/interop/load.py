"""A trained model, loaded to be used: from a folder that Hugging Face reads, or from a workdir."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.config import TaskConfig
from bert_jax.interop import generator, huggingface
from bert_jax.training.network import Network, Params
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.checkpoint import read_params
from bert_jax.workdir.inventory import check_has_run, step_to_use, steps_of
from bert_jax.workdir.run_files import load_spec
from data_pipeline import tokenizer
from data_pipeline.config import read_object
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

TASK_FIELDS = "task_specific_params"
"""Where Hugging Face's config.json keeps what a program wants to know of a task."""

DEFAULT_LENGTH = 512
"""Tokens of a row at most, where it is not known how long those of the training were."""


class LoadedModel(NamedTuple):
    network: Network
    """The settings of a task say how its texts are read and cut, as in the training."""
    params: Params
    tokenizer: Tokenizer


def load_model(directory: Path) -> LoadedModel:
    """The model of an exported folder, or of a workdir's checkpoint: the best one of a fine-tuned model.

    A discriminator predicts no words and has no task: its generator is loaded in its place.

    Raises:
      FileNotFoundError, UserError: there is none, or it is damaged.
    """
    if steps_of(directory):
        spec, params, _ = load_workdir(directory)
        words = tokenizer.load(directory / "tokenizer")
        return LoadedModel(*generator.masked_lm(spec.network, params), words)
    if (directory / huggingface.CONFIG_FILE).is_file() and not (directory / "checkpoints").is_dir():
        if huggingface.load_network(directory).generator is not None:
            folder = generator.folder_of(directory)
            if folder is None:
                raise UserError(
                    f"{directory} holds a discriminator, and no folder {generator.FOLDER} with a model that "
                    "predicts words: fine-tune it for a task"
                )
            directory = folder
        network, params = huggingface.load(directory)
        return LoadedModel(_with_task_fields(directory, network), params, tokenizer.load(directory))
    raise FileNotFoundError(f"{directory} is neither an exported directory nor a workdir with a checkpoint")


def _with_task_fields(directory: Path, network: Network) -> Network:
    """The network with what `export` noted of a task.

    Without a note rows are as long as the tokenizer's `model_max_length`, which is a number beyond reason
    where the tokenizer does not know.
    """
    if not isinstance(network.settings, TaskConfig):
        return network
    stated = tokenizer.settings(directory).get("model_max_length")
    most = network.model.longest
    length = int(stated) if isinstance(stated, int | float) and stated <= most else min(DEFAULT_LENGTH, most)
    fields: dict[str, Any] = {"sequence_length": length}
    if "stride" in network.settings.noted:
        fields["stride"] = length // 4
    noted = read_object(directory / huggingface.CONFIG_FILE).get(TASK_FIELDS) or {}
    try:
        fields |= noted.get("bert-jax", {})
        settings_of_task = dataclasses.replace(network.settings, **fields)
        if settings_of_task.sequence_length > most:
            raise ValueError(f"sequence_length {settings_of_task.sequence_length}, but {most} positions")
        return network._replace(settings=settings_of_task)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory / huggingface.CONFIG_FILE} has {TASK_FIELDS} that do not fit: {error}"
        ) from error


def load_workdir(workdir: Path, *, step: int | None = None) -> tuple[RunSpec, Params, int]:
    """Spec, parameters (on one device) and step of a run's checkpoint. If `step` is None, the latest one of a
    pretraining and the best one of a fine-tuning.

    Raises:
      FileNotFoundError: there is no run or no such checkpoint.
    """
    check_has_run(workdir)
    spec = load_spec(workdir)
    if step is None:
        step = step_to_use(workdir, spec.config)
    return spec, *read_params(workdir, spec, step=step)
