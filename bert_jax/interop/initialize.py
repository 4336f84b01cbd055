"""How a run begins: what follows from its config and its sources, and the weights that it starts from."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import Config, DistillationConfig, EncoderConfig, ModelConfig, RobertaConfig
from bert_jax.interop import generator, vocabulary
from bert_jax.interop.layers import check_layers, take_layers
from bert_jax.interop.source import (
    CASE_PROBE,
    check_tokenizer,
    is_run,
    placed,
    read_weights,
    source_generator,
    source_network,
    source_tokenizer,
    step_of,
    weights_digest,
)
from bert_jax.interop.tiling import SIZES, check_sizes, positions, tile
from bert_jax.models import encoder_of
from bert_jax.objectives.distillation import Teacher
from bert_jax.parallel import sharding
from bert_jax.parallel.platform import Platform, local_platform
from bert_jax.training.network import parameters
from bert_jax.training.run_spec import RunSpec, pretraining_spec
from bert_jax.training.step import TrainState
from bert_jax.workdir.bucket import source_folder
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.run_files import load_spec
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest
from data_pipeline.storage import dataset_folder
from data_pipeline.tokenizer import Tokenizer

log = logging.getLogger(__name__)

TRAINING_FIELDS = (
    "max_position_embeddings",
    "initializer_range",
    "initializer_cutoff_factor",
    "global_rope_theta",
    "local_rope_theta",
    "classifier_pooling",
)
"""Fields of an encoder that another one with the same weights may have otherwise, beside how it is run and
its dropout. Where there are more positions than needed, the first ones are taken; where there are fewer, they
are repeated (Beltagy et al. 2020, section 5)."""

SEEN_BY_TOKENS = ("max_position_embeddings", "global_rope_theta", "local_rope_theta")
"""Those of them that change what the weights compute."""

POSITIONS = "position_embeddings.weight"
"""Ends the name of the table of positions in Transformers."""


def resolve(config: Config, *, platform: Platform | None = None) -> RunSpec:
    """What follows from the config of a pretraining, on a platform; None: this process's.

    Raises:
      FileNotFoundError, UserError: something that it names is missing or cannot be had.
    """
    platform = platform or local_platform()
    model = config.model if isinstance(config.model, EncoderConfig) else source_model(config, platform)
    if config.init.vocabulary != "keep":
        model = _with_vocabulary(model, Manifest.load(dataset_folder(config.data.dir)))
    return pretraining_spec(config, model, platform, teacher=teacher_of(config, model))


def _with_vocabulary(model: EncoderConfig, manifest: Manifest) -> EncoderConfig:
    """The encoder for the tokenizer of a dataset, with as many positions for tokens as before."""
    changes: dict[str, Any] = {"vocab_size": manifest.vocab_size}
    if isinstance(model, RobertaConfig):  # whose positions begin behind the id of the padding
        pad = manifest.special_tokens.pad
        positions = model.max_position_embeddings + pad - model.pad_token_id
        changes |= {"pad_token_id": pad, "max_position_embeddings": positions}
    return dataclasses.replace(model, **changes)


def source_model(config: Config, platform: Platform) -> EncoderConfig:
    """The encoder of init.source, to be run as config.model says on that platform.

    Raises:
      FileNotFoundError, UserError: there is none, or it cannot be read.
    """
    if config.init.source is None:
        raise UserError("init.source is not given: a pretrained model, as a workdir or an exported folder")
    model = source_network(source_folder(config.init.source)).model
    run = {field.name: getattr(config.model, field.name) for field in dataclasses.fields(ModelConfig)}
    if run["dtype"] == "auto":
        run["dtype"] = "float32" if platform.name == "cpu" else "bfloat16"
    if config.init.layers:
        run["num_hidden_layers"] = len(config.init.layers)
    return dataclasses.replace(model, **run)


def teacher_of(config: Config, model: EncoderConfig) -> Teacher | None:
    """The teacher of a distillation, run as the student `model` is, but without dropout; None for any other.

    Raises:
      FileNotFoundError, UserError: there is none, or it cannot be read.
    """
    if not isinstance(config.objective, DistillationConfig):
        return None
    if config.objective.teacher is None:
        raise UserError(
            "objective.teacher is not given: a pretrained model, as a workdir or an exported folder"
        )
    source = source_folder(config.objective.teacher)
    if not source.is_dir():
        raise UserError(f"objective.teacher {source} does not exist: give a workdir or an exported folder")
    theirs = source_network(source, field="objective.teacher").model
    theirs = dataclasses.replace(theirs, dtype=model.dtype, scan_unroll=model.scan_unroll, remat="none")
    return Teacher(encoder_of(theirs).with_dropout(theirs, 0.0), digest=weights_digest(source))


def start_from(source: Path, spec: RunSpec, mesh: Mesh, state: TrainState) -> TrainState:
    """A fresh `state` with the weights of `source`. Parts that it lacks stay as they are, which is logged.

    Raises:
      FileNotFoundError, UserError: there are no weights, or they are of another model or tokenizer.
    """
    network = spec.network
    tiles, layers = spec.config.init.tile, spec.config.init.layers
    keeps = spec.config.init.vocabulary == "keep"
    theirs = source_network(source)
    _check_architecture(
        source, theirs.model, network.model, tiles=tiles, layers=layers, keeps_vocabulary=keeps
    )
    if network.generator is not None and (their_generator := source_generator(source)) is not None:
        generator.check_size(source, their_generator.model, network, tiles=tiles)
    if layers:
        check_layers(layers, theirs, network)
    origins = None
    if not keeps:
        origins = _origins(source, spec.config, rows=theirs.model.vocab_size)
    elif spec.config.task is None:  # a task takes the tokenizer of the source
        check_tokenizer(source, spec.config)
    weights = read_weights(source, network, mesh)
    first = network.model.first_position
    fresh = []

    def chosen(path: Any, parameter: Any, leaf: jax.Array) -> jax.Array:
        if parameter.huggingface not in weights:
            fresh.append(path[1].key)
            return leaf
        array = weights[parameter.huggingface]
        if origins is not None and parameter.logical_axes[0] == "vocab":
            array = origins.rows(_on_host(array, mesh), size=parameter.shape[0])
        elif first != theirs.model.first_position and parameter.huggingface.endswith(POSITIONS):
            array = _moved(_on_host(array, mesh), theirs.model.first_position, first)
        if tiles:
            model = network.model
            fitted = functools.partial(
                tile,
                parameter=parameter,
                head_dim=model.head_dim,
                period=model.period,
                first_position=first,
            )
        elif layers and parameter.is_stacked:
            fitted = functools.partial(take_layers, parameter=parameter, layers=layers)
        else:
            fitted = functools.partial(_resize_positions, length=len(leaf), first=first)
        return placed(array, fitted, leaf.sharding)

    params = jax.tree.map_with_path(chosen, parameters(network), state.params)
    lacking = f"; it lacks {', '.join(dict.fromkeys(fresh))}, which stay random" if fresh else ""
    log.info("starting from the weights of %s%s", source, lacking)
    log.info("they are of %s", _described(theirs.model, network.model))
    state = state._replace(params=params)
    return _with_optimizer_state(source, mesh, state) if spec.config.init.optimizer_state else state


def _described(theirs: EncoderConfig, ours: EncoderConfig) -> str:
    """What an encoder is, and what its weights meet otherwise than they were trained."""
    values = [(name, *(getattr(model, name, None) for model in (theirs, ours))) for name in SEEN_BY_TOKENS]
    changes = [f"{name} {there} -> {here}" for name, there, here in values if there != here]
    shape = f"{theirs.kind}, {theirs.num_hidden_layers} layers of {theirs.hidden_size}"
    return "; ".join([shape, *changes])


def _origins(source: Path, config: Config, *, rows: int) -> vocabulary.Origins:
    """Where the rows of the dataset's vocabulary come from; raises UserError if they cannot be had.

    Args:
      rows: of the embeddings of the source.
    """
    what, its = f"init.vocabulary {config.init.vocabulary}", f"init.source {source}"
    try:
        theirs = tokenizer.load(source_tokenizer(source))
    except FileNotFoundError as error:
        raise UserError(f"{what}: {its} has no tokenizer that says what its rows are") from error
    if theirs.vocab_size > rows:
        raise UserError(f"{what}: the tokenizer of {its} has {theirs.vocab_size} pieces for {rows} rows")
    ours = tokenizer.load(dataset_folder(config.data.dir) / "tokenizer")
    if config.init.vocabulary == "extend" and (change := _change(theirs, ours)):
        raise UserError(
            f"{what}: the tokenizer of data.dir {config.data.dir} has {change[0]}, where that of {its} has "
            f"{change[1]}: extend that one (data.tokenizer.added_tokens), or use init.vocabulary transplant"
        )
    found = vocabulary.origins(theirs, ours)
    if config.init.optimizer_state and not found.are_the_same:
        raise UserError(f"{what}: the moments of init.optimizer_state belong to other pieces; leave it out")
    log.info("vocabulary: %s", found)
    return found


def _change(theirs: Tokenizer, ours: Tokenizer) -> tuple[str, str] | None:
    """What ours has in place of something of theirs, and that; None if it only has more."""
    moved = vocabulary.first_moved(theirs, ours)
    if moved is not None:
        here = repr(ours.pieces[moved]) if moved < ours.vocab_size else "nothing"
        return f"{here} as piece {moved}", repr(theirs.pieces[moved])
    normal, before = (
        words.huggingface.normalizer.normalize_str(CASE_PROBE) if words.huggingface.normalizer else CASE_PROBE
        for words in (ours, theirs)
    )
    return None if normal == before else (f"{normal!r} for {CASE_PROBE!r}", repr(before))


def _on_host(array: Any, mesh: Mesh) -> np.ndarray:
    """The whole of an array, on each process."""
    if not isinstance(array, jax.Array):
        return array
    return jax.device_get(jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))(array))


def _moved(table: np.ndarray, before: int, first: int) -> np.ndarray:
    """A table of positions that begins at row `first` in place of row `before`."""
    return np.concatenate([np.repeat(table[before - 1 : before], first, axis=0), table[before:]])


def _with_optimizer_state(source: Path, mesh: Mesh, state: TrainState) -> TrainState:
    """`state` with the optimizer's of another run's checkpoint; raises UserError if it has none that fits."""
    if not is_run(source):
        raise UserError(f"init.optimizer_state: {source} is no workdir, and has weights only")
    with Checkpoints(source, load_spec(source), read_only=True) as checkpoints:
        opt_state = checkpoints.restore(mesh, step=step_of(source))[0].opt_state
    wanted, found = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (state.opt_state, opt_state))
    if wanted != found:
        raise UserError(
            f"init.optimizer_state: the run in {source} has another optimizer, or parameters of other shapes"
        )
    log.info("the moments of its optimizer too")
    return state._replace(opt_state=opt_state)


def _check_architecture(
    source: Path,
    theirs: EncoderConfig,
    ours: EncoderConfig,
    *,
    tiles: bool,
    layers: tuple[int, ...],
    keeps_vocabulary: bool,
) -> None:
    """Raises UserError, naming the flag, unless weights that were made for one encoder fit the other."""
    if type(theirs) is not type(ours):
        raise UserError(f"the weights of init.source {source} are of a {theirs.kind}, not of a {ours.kind}")
    free = {*TRAINING_FIELDS, *(field.name for field in dataclasses.fields(ModelConfig))}
    if tiles:
        check_sizes(theirs, ours)
        free |= {*SIZES}
    if layers:
        free |= {"num_hidden_layers"}
    if not keeps_vocabulary:
        free |= {"vocab_size", "pad_token_id"}
    for field in dataclasses.fields(ours):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        if one != other and field.name not in free and "dropout" not in field.name:
            flag = f"--model.{field.name.replace('_', '-')} {one}"
            raise UserError(
                f"the weights of init.source {source} have {field.name} {one}, not {other}: use {flag}"
            )


def _resize_positions(array: Any, length: int, first: int) -> Any:
    """Cut or repeated along the first axis, to `length`. Only the positions can have another one."""
    if len(array) == length:
        return array
    return jnp.take(array, positions(length, given=len(array), first=first), axis=0)
