"""Weights to start from: of Hugging Face, of google-research/bert, or of another run.

Safetensors, TensorFlow's checkpoints and Orbax's: numbers and JSON, nothing that could run code.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import Config, ModelConfig
from bert_jax.config.files import load_json
from bert_jax.interop import huggingface, tensorflow_v1
from bert_jax.models.bert import Params
from bert_jax.training.step import TrainState
from bert_jax.workdir.checkpoint import Checkpoints, step_to_use, steps_of
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "type_vocab_size",
    "layer_norm_eps",
)
"""Fields of the model that its weights were made for. Dropout may differ, and so may the positions: of more
than there are, the first ones are taken; those beyond are the first ones again (Beltagy et al., 2020, 5)."""


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "spiece.model",
)


CASES = "The Café of PARIS"
"""Is cut otherwise by a tokenizer that keeps the case than by one that lowers it."""


def start_from(source: Path, config: Config, mesh: Mesh, state: TrainState) -> TrainState:
    """A fresh `state` with the weights of `source`. Heads that it lacks stay as they are, which is said.

    Raises:
      FileNotFoundError, UserError: there are no weights, or they are of another model or tokenizer.
    """
    made_for, params = model_of(source), _read(source, mesh)
    for name in SAME:
        theirs, ours = getattr(made_for, name), getattr(config.model, name)
        if theirs != ours:
            flag = f"--model.{name.replace('_', '-')} {theirs}"
            raise UserError(
                f"the weights of init.source {source} have {name} {theirs}, not {ours}: use {flag}"
            )
    if config.model.head == "pretraining":  # a task takes the tokenizer of the source
        _check_tokenizer(source, config)
    if (made_for.head, made_for.labels) != (config.model.head, config.model.labels):
        params = {name: part for name, part in params.items() if name != "classifier"}
    found = dict(jax.tree.leaves_with_path(params))
    fresh = []

    def chosen(path: Any, leaf: jax.Array) -> jax.Array:
        if path not in found:
            fresh.append(jax.tree_util.keystr(path[:1], simple=True))
            return leaf
        array = found[path]
        if isinstance(array, jax.Array):
            return jax.jit(_cut_or_repeated, static_argnums=1, out_shardings=leaf.sharding)(array, len(leaf))
        array = np.asarray(_cut_or_repeated(array, len(leaf)))
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    params = jax.tree.map_with_path(chosen, state.params)
    lacking = f"; it lacks {', '.join(dict.fromkeys(fresh))}, which stay random" if fresh else ""
    log.info("starting from the weights of %s%s", source, lacking)
    return state._replace(params=params)


def model_of(source: Path) -> ModelConfig:
    """The model that the weights of a source are of. Raises as `start_from` does."""
    if steps_of(source):
        return load_json(source / "config.json").model
    if (source / "checkpoints").is_dir():
        raise FileNotFoundError(f"init.source {source} is a run that has no checkpoint yet")
    try:
        return _format(source).load_config(source)
    except UserError as error:
        raise UserError(f"init.source {source}: {error}") from error


def tokenizer_of(source: Path) -> Path:
    """The folder of its tokenizer."""
    return source / "tokenizer" if steps_of(source) else source


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Into a folder that may be there already, for Hugging Face's AutoTokenizer."""
    from data_pipeline.tokenizer import load_vocabulary

    here = tokenizer_of(source)
    if not (here / "tokenizer.json").is_file():
        shutil.rmtree(directory, ignore_errors=True)
        load_vocabulary(here).save(directory)
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (here / name).is_file():
            shutil.copy(here / name, directory / name)


def _read(source: Path, mesh: Mesh) -> Params:
    if steps_of(source):
        config = load_json(source / "config.json")
        with Checkpoints(source, config, read_only=True) as checkpoints:
            return checkpoints.restore(mesh, step=step_to_use(source, config))[0].params
    try:
        tensors = _format(source).load_tensors(source)
        return huggingface.from_tensors(model_of(source), tensors, may_lack=huggingface.PARTS)
    except UserError as error:
        raise UserError(f"init.source {source}: {error}") from error


def _format(source: Path) -> ModuleType:
    return tensorflow_v1 if tensorflow_v1.is_checkpoint(source) else huggingface


def _cut_or_repeated(array: Any, length: int) -> Any:
    """Along the first axis, to `length`."""
    repeats = -(-length // len(array))
    return array if len(array) == length else jnp.concatenate([array] * repeats)[:length]


def _check_tokenizer(source: Path, config: Config) -> None:
    """Raises UserError if the dataset was prepared with another tokenizer than that of the source."""
    from data_pipeline.tokenizer import load_fast

    try:
        theirs = load_fast(tokenizer_of(source))
    except FileNotFoundError:
        log.warning("init.source %s has no tokenizer to compare with that of the dataset", source)
        return
    ours = load_fast(Path(config.data.dir) / "tokenizer")
    a, b = (sorted(ids, key=lambda piece: ids[piece]) for ids in (ours.get_vocab(), theirs.get_vocab()))
    if a != b:
        number = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        what = f"{len(a)} pieces, not {len(b)}"
        if number is not None:
            what = f"{a[number]!r} as piece {number}, not {b[number]!r}"
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} has {what} as init.source {source} has: prepare "
            "the data with the tokenizer of the source (data.tokenizer.vocab_file)"
        )
    if (x := ours.encode(CASES).tokens) != (y := theirs.encode(CASES).tokens):
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} makes {x} of {CASES!r}, where that of init.source "
            f"{source} makes {y}: prepare the data as the source has it (data.tokenizer.lowercase)"
        )
