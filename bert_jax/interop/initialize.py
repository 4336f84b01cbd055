"""Where weights come from: Hugging Face, google-research/bert, or another run; and what they fit.

Safetensors, TensorFlow's checkpoints and Orbax's: numbers and JSON, nothing that could run code.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import Config, EncoderConfig, ModelConfig, RobertaConfig
from bert_jax.interop import huggingface, tensorflow_v1, vocabulary
from bert_jax.interop.tiling import SIZES, check_sizes, positions, tile
from bert_jax.parallel import sharding
from bert_jax.parallel.platform import Platform, local_platform
from bert_jax.parallel.processes import from_process_0, wait_until_visible
from bert_jax.training.network import Network, Params, parameters
from bert_jax.training.run_spec import RunSpec, pretraining_spec
from bert_jax.training.step import TrainState
from bert_jax.workdir.bucket import source_folder
from bert_jax.workdir.checkpoint import Checkpoints, read_params
from bert_jax.workdir.inventory import step_to_use, steps_of
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

POSITIONS = "position_embeddings.weight"
"""Ends the name of the table of positions in Transformers."""

CASE_PROBE = "The Café of PARIS"
"""Is cut otherwise by a tokenizer that keeps the case than by one that lowers it."""


def resolve(config: Config, *, platform: Platform | None = None) -> RunSpec:
    """What follows from the config of a pretraining, on a platform; None: this process's.

    Raises:
      FileNotFoundError, UserError: something that it names is missing or cannot be had.
    """
    platform = platform or local_platform()
    model = config.model if isinstance(config.model, EncoderConfig) else source_model(config, platform)
    if config.init.vocabulary != "keep":
        model = _with_vocabulary(model, Manifest.load(dataset_folder(config.data.dir)))
    return pretraining_spec(config, model, platform)


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
    return dataclasses.replace(model, **run)


def start_from(source: Path, spec: RunSpec, mesh: Mesh, state: TrainState) -> TrainState:
    """A fresh `state` with the weights of `source`. Parts that it lacks stay as they are, which is logged.

    Raises:
      FileNotFoundError, UserError: there are no weights, or they are of another model or tokenizer.
    """
    network = spec.network
    tiles = spec.config.init.tile
    theirs = source_network(source).model
    keeps = spec.config.init.vocabulary == "keep"
    _check_architecture(source, theirs, network.model, tiles=tiles, keeps_vocabulary=keeps)
    origins = None
    if not keeps:
        origins = _origins(source, spec.config, rows=theirs.vocab_size)
    elif spec.config.task is None:  # a task takes the tokenizer of the source
        _check_tokenizer(source, spec.config)
    weights = _read(source, network, mesh)
    first = network.model.first_position
    fresh = []

    def chosen(path: Any, parameter: Any, leaf: jax.Array) -> jax.Array:
        if parameter.huggingface not in weights:
            fresh.append(path[1].key)
            return leaf
        array = weights[parameter.huggingface]
        if origins is not None and parameter.logical_axes[0] == "vocab":
            array = origins.rows(_on_host(array, mesh), size=parameter.shape[0])
        elif first != theirs.first_position and parameter.huggingface.endswith(POSITIONS):
            array = _moved(_on_host(array, mesh), theirs.first_position, first)
        if tiles:
            model = network.model
            fitted = functools.partial(
                tile,
                parameter=parameter,
                head_dim=model.head_dim,
                period=model.period,
                first_position=first,
            )
        else:
            fitted = functools.partial(_resize_positions, length=len(leaf), first=first)
        if isinstance(array, jax.Array):
            return jax.jit(fitted, out_shardings=leaf.sharding)(array)
        array = np.asarray(fitted(array))
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    params = jax.tree.map_with_path(chosen, parameters(network), state.params)
    lacking = f"; it lacks {', '.join(dict.fromkeys(fresh))}, which stay random" if fresh else ""
    log.info("starting from the weights of %s%s", source, lacking)
    state = state._replace(params=params)
    return _with_optimizer_state(source, mesh, state) if spec.config.init.optimizer_state else state


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
        words.library.normalizer.normalize_str(CASE_PROBE) if words.library.normalizer else CASE_PROBE
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
    if not _is_run(source):
        raise UserError(f"init.optimizer_state: {source} is no workdir, and has weights only")
    theirs = load_spec(source)
    step = from_process_0(lambda: step_to_use(source, theirs.config))
    with Checkpoints(source, theirs, read_only=True) as checkpoints:
        opt_state = checkpoints.restore(mesh, step=step)[0].opt_state
    wanted, found = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (state.opt_state, opt_state))
    if wanted != found:
        raise UserError(
            f"init.optimizer_state: the run in {source} has another optimizer, or parameters of other shapes"
        )
    log.info("the moments of its optimizer too")
    return state._replace(opt_state=opt_state)


def source_network(source: Path) -> Network:
    """The network that the weights of a source are of. Raises as `start_from` does."""
    if _is_run(source):
        return load_spec(source).network
    if (source / "checkpoints").is_dir():
        raise FileNotFoundError(f"init.source {source} is a run that has no checkpoint yet")
    try:
        return _format(source).load_network(source)
    except UserError as error:
        raise UserError(f"init.source {source}: {error}") from error


def _is_run(source: Path) -> bool:
    """Whether it is a workdir with a checkpoint; on all processes, of which some may see its files late.

    The run before, of an earlier phase, has ended a moment ago, and process 0 has written it.
    """
    return from_process_0(lambda: bool(steps_of(source))) and wait_until_visible(
        lambda: bool(steps_of(source))
    )


def source_tokenizer(source: Path) -> Path:
    """The folder of its tokenizer."""
    return source / "tokenizer" if steps_of(source) else source


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Into a folder that may be there already, for Hugging Face's AutoTokenizer."""
    tokenizer.load(source_tokenizer(source)).save(directory)


def _check_architecture(
    source: Path, theirs: EncoderConfig, ours: EncoderConfig, *, tiles: bool, keeps_vocabulary: bool
) -> None:
    """Raises UserError, naming the flag, unless weights that were made for one encoder fit the other."""
    if type(theirs) is not type(ours):
        raise UserError(f"the weights of init.source {source} are of a {theirs.kind}, not of a {ours.kind}")
    free = {*TRAINING_FIELDS, *(field.name for field in dataclasses.fields(ModelConfig))}
    if tiles:
        check_sizes(theirs, ours)
        free |= {*SIZES}
    if not keeps_vocabulary:
        free |= {"vocab_size", "pad_token_id"}
    for field in dataclasses.fields(ours):
        one, other = getattr(theirs, field.name), getattr(ours, field.name)
        if one != other and field.name not in free and "dropout" not in field.name:
            flag = f"--model.{field.name.replace('_', '-')} {one}"
            raise UserError(
                f"the weights of init.source {source} have {field.name} {one}, not {other}: use {flag}"
            )


def _read(source: Path, network: Network, mesh: Mesh) -> dict[str, Any]:
    """What there is for the parameters of `network`, in our layout, by name in Transformers.

    What depends on the labels of a task is left out unless the source is for the same task and labels.
    """
    theirs = source_network(source)
    declared = jax.tree.leaves(parameters(network))
    is_same_task = (type(theirs.settings), _labels(theirs)) == (type(network.settings), _labels(network))
    left_out = {p.huggingface for p in declared if "labels" in p.logical_axes and not is_same_task}
    if _is_run(source):
        spec = load_spec(source)
        step = from_process_0(lambda: step_to_use(source, spec.config))
        params, _ = read_params(source, spec, step=step, mesh=mesh)
        names = [parameter.huggingface for parameter in jax.tree.leaves(parameters(theirs))]
        weights = dict(zip(names, jax.tree.leaves(params), strict=True))
    else:
        reading = network._replace(model=theirs.model)  # their number of positions
        ignored = [name for p in jax.tree.leaves(parameters(theirs)) for name in huggingface.tensor_names(p)]
        try:
            tensors = _format(source).load_tensors(source)
            tensors = {name: array for name, array in tensors.items() if name not in left_out}
            params = huggingface.from_tensors(reading, tensors, head_may_lack=True, ignored=ignored)
        except UserError as error:
            raise UserError(f"init.source {source}: {error}") from error
        weights = _by_name(reading, params)
    return {name: array for name, array in weights.items() if name not in left_out}


def _by_name(network: Network, params: Params) -> dict[str, Any]:
    """The parameters that are there, by name in Transformers."""
    names = {
        path: parameter.huggingface for path, parameter in jax.tree.leaves_with_path(parameters(network))
    }
    return {names[path]: array for path, array in jax.tree.leaves_with_path(params)}


def _labels(network: Network) -> tuple[str, ...]:
    return getattr(network.settings, "labels", ())


def _format(source: Path) -> ModuleType:
    return tensorflow_v1 if tensorflow_v1.is_checkpoint(source) else huggingface


def _resize_positions(array: Any, length: int, first: int) -> Any:
    """Cut or repeated along the first axis, to `length`. Only the positions can have another one."""
    if len(array) == length:
        return array
    return jnp.take(array, positions(length, given=len(array), first=first), axis=0)


def _check_tokenizer(source: Path, config: Config) -> None:
    """Raises UserError if the dataset was prepared with another tokenizer than that of the source."""
    try:
        theirs = tokenizer.load(source_tokenizer(source))
    except FileNotFoundError:
        log.warning("init.source %s has no tokenizer to compare with that of the dataset", source)
        return
    ours = tokenizer.load(dataset_folder(config.data.dir) / "tokenizer")
    a, b = ours.pieces, theirs.pieces
    if a != b:
        number = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        what = f"{len(a)} pieces, not {len(b)}"
        if number is not None:
            what = f"{a[number]!r} as piece {number}, not {b[number]!r}"
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} has {what} as init.source {source} has: prepare "
            "the data with the tokenizer of the source (data.tokenizer.vocab_file)"
        )
    x, y = (words.library.encode(CASE_PROBE).tokens for words in (ours, theirs))
    if x != y:
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} makes {x} of {CASE_PROBE!r}, where that of "
            f"init.source {source} makes {y}: prepare the data as the source has it "
            "(data.tokenizer.lowercase)"
        )
