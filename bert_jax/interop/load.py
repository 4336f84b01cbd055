"""A trained model, loaded to be used: from a folder that Hugging Face reads, or from a workdir."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.config import EmbeddingConfig, LateInteractionConfig, TaskConfig
from bert_jax.interop import generator, huggingface, multi_vector, sentence_transformers
from bert_jax.interop.sentence_transformers import Use
from bert_jax.objectives import mlm
from bert_jax.tasks import task_of
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


class Embedder(NamedTuple):
    """A model that is loaded to make vectors of texts."""

    network: Network
    params: Params
    """The encoder's are there."""
    tokenizer: Tokenizer
    use: Use


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
    _check_folder(directory)
    if multi_vector.is_folder(directory):
        network, params = huggingface.load(directory)
        words, settings = tokenizer.load(directory), network.settings
        assert isinstance(settings, LateInteractionConfig)
        settings = multi_vector.read(directory, settings, model=network.model, tokenizer=words)
        return LoadedModel(network._replace(settings=settings), params, words)
    if sentence_transformers.is_folder(directory):
        network, params, words, use = load_embedder(directory)
        return LoadedModel(Network(network.model, task_of(use.settings), use.settings), params, words)
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


def load_embedder(directory: Path) -> Embedder:
    """The encoder of a folder or of a workdir, as `load_model` finds it, and which vectors it makes.

    Where nothing was said of vectors, and no head was trained for a task, it makes those that Sentence
    Transformers would make of it.

    Raises:
      FileNotFoundError, UserError: as `load_model`; or it is for something else, or asks for what cannot be
        run here.
    """
    if steps_of(directory):
        spec, params, _ = load_workdir(directory)
        words, settings = tokenizer.load(directory / "tokenizer"), spec.network.settings
        _check_one_vector(directory, spec.network)
        if isinstance(settings, EmbeddingConfig):
            use = Use(settings)
        else:
            _check_has_no_task(directory, spec.network)
            use = sentence_transformers.without_modules(directory, length=spec.rows.sequence_length)
        return Embedder(spec.network, params, words, use)
    _check_folder(directory)
    if sentence_transformers.is_cross_encoder(directory):
        raise UserError(
            f"{directory} is a CrossEncoder, which reads two texts together and has no vector for one: use "
            "bert-jax predict"
        )
    network, params = huggingface.load_encoder(directory)
    _check_one_vector(directory, network)
    words, model = tokenizer.load(directory), network.model
    if sentence_transformers.is_folder(directory):
        use = sentence_transformers.read(directory, model=model, tokenizer=words)
    else:
        _check_has_no_task(directory, network)
        length = sentence_transformers.longest(model, words)
        use = sentence_transformers.without_modules(directory, length=length)
    return Embedder(network, params, words, use)


def _check_one_vector(directory: Path, network: Network) -> None:
    if isinstance(network.settings, LateInteractionConfig):
        raise UserError(f"{directory} makes a vector for each token of a text, not one for a text")


def _check_has_no_task(directory: Path, network: Network) -> None:
    """Raises UserError if there is a head for a task.

    A cross-encoder and a classifier of single texts are of the same class: nothing tells them apart.
    """
    if isinstance(network.settings, TaskConfig):
        raise UserError(
            f"{directory} is a {network.huggingface_class}, for {network.settings.kind} and not for vectors: "
            "use bert-jax predict"
        )


def _check_folder(directory: Path) -> None:
    if not (directory / huggingface.CONFIG_FILE).is_file() or (directory / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{directory} is neither an exported directory nor a workdir with a checkpoint"
        )


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
    params, step = read_params(workdir, spec, step=step)
    return *to_use(spec, params), step


def to_use(spec: RunSpec, params: Params) -> tuple[RunSpec, Params]:
    """The same without what only the training needs beside a masked-LM head: a student's teacher and its
    projection to it, the decoder of RetroMAE."""
    objective = spec.network.objective
    if objective is mlm or objective.HUGGINGFACE_SUFFIX != mlm.HUGGINGFACE_SUFFIX:
        return spec, params
    network, params = huggingface.only_masked_lm(spec.network, params)
    return dataclasses.replace(spec, network=network), params
