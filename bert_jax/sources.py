"""Weights to start from: of Hugging Face, of google-research/bert, or of another run.

Safetensors, TensorFlow's checkpoints and Orbax's: numbers and JSON, nothing that could run code.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.sharding import Mesh

from bert_jax import huggingface, tensorflow_v1
from bert_jax.checkpoint import Checkpoints, steps_of
from bert_jax.config import Config, ModelConfig, load_json
from bert_jax.model import Params
from bert_jax.step import TrainState

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


def start_from(source: Path, config: Config, mesh: Mesh, state: TrainState) -> TrainState:
    """A fresh `state` with the weights of `source`. Heads that it lacks stay as they are, which is said.

    Raises:
      FileNotFoundError, ValueError: there are no weights, or they are of another model or tokenizer.
    """
    made_for, params, pieces = _read(source, mesh)
    for name in SAME:
        theirs, ours = getattr(made_for, name), getattr(config.model, name)
        if theirs != ours:
            flag = f"--model.{name.replace('_', '-')} {theirs}"
            raise ValueError(
                f"the weights of init.source {source} have {name} {theirs}, not {ours}: use {flag}"
            )
    if config.model.head == "pretraining":  # a task takes the tokenizer of the source
        _check_pieces(pieces, source, config)
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


def _read(source: Path, mesh: Mesh) -> tuple[ModelConfig, Params, list[str] | None]:
    """Model, weights and pieces of the tokenizer, None where there is none."""
    if steps_of(source):
        config = load_json(source / "config.json")
        with Checkpoints(source, config, read_only=True) as checkpoints:
            return config.model, checkpoints.restore(mesh)[0].params, _pieces(source / "tokenizer")
    module: Any = tensorflow_v1 if tensorflow_v1.is_checkpoint(source) else huggingface
    try:
        config, tensors = module.load_tensors(source)
        return config, huggingface.from_tensors(config, tensors, encoder_only=True), _pieces(source)
    except ValueError as error:
        raise ValueError(f"init.source {source}: {error}") from error


def _cut_or_repeated(array: Any, length: int) -> Any:
    """Along the first axis, to `length`."""
    repeats = -(-length // len(array))
    return array if len(array) == length else jnp.concatenate([array] * repeats)[:length]


def _pieces(directory: Path) -> list[str] | None:
    """Of a tokenizer, by id."""
    if (directory / "tokenizer.json").is_file():
        vocabulary = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab()
        return sorted(vocabulary, key=lambda piece: vocabulary[piece])
    if (directory / "vocab.txt").is_file():
        return (directory / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return None


def _check_pieces(pieces: list[str] | None, source: Path, config: Config) -> None:
    if pieces is None:
        log.warning("init.source %s has no tokenizer to compare with that of the dataset", source)
        return
    ours = _pieces(Path(config.data.dir) / "tokenizer")
    assert ours is not None
    if ours != pieces:
        number = next((i for i, (a, b) in enumerate(zip(ours, pieces, strict=False)) if a != b), None)
        what = f"{len(ours)} pieces, not {len(pieces)}"
        if number is not None:
            what = f"{ours[number]!r} as piece {number}, not {pieces[number]!r}"
        raise ValueError(
            f"the tokenizer of data.dir {config.data.dir} has {what} as init.source {source} has: prepare "
            "the data with the tokenizer of the source (data.tokenizer.vocab_file)"
        )
