"""Why a trained model predicts what it predicts for a text: attributions, and attention maps."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.analysis.attributions import integrated_gradients, words_and_baseline
from bert_jax.config import TaskConfig
from bert_jax.finetuning.data import make_splits
from bert_jax.inference.fill_mask import masked_batch, masked_columns, token_logits
from bert_jax.interop.load import LoadedModel, load_model
from bert_jax.models.encoder import Batch
from bert_jax.ops.attention import PLAIN
from bert_jax.ops.precision import precision
from bert_jax.tasks import task_of
from bert_jax.training.network import Params, modules
from data_pipeline.batch import unpack
from data_pipeline.corpus import is_blank, sanitize
from data_pipeline.errors import UserError, require


@dataclass(frozen=True)
class Explanation:
    """One prediction for one text of S tokens, explained."""

    prediction: str
    """The prediction in words."""
    target: str
    """Name of the number that is explained."""
    output: float
    """Value of the target."""
    baseline: float
    """Value of the target with every token but [CLS] and [SEP] empty."""
    tokens: list[str]
    attributions: list[float]
    """What each token adds: together, output - baseline."""
    attentions: np.ndarray
    """[L, H, S, S] float32, by layer, head, query and key."""

    @property
    def convergence_delta(self) -> float:
        """Convergence delta: by how much the attributions miss what they should sum to."""
        return abs(sum(self.attributions) - (self.output - self.baseline))


class _Target(NamedTuple):
    """A row, and the number about it that is to be explained."""

    batch: dict[str, np.ndarray]
    prediction: str
    name: str
    value: Callable[[Params, Batch], jax.Array]


def explain(
    directory: Path, text: str, *, pair: str | None = None, label: str | None = None, steps: int = 64
) -> Explanation:
    """Explains the prediction of an exported folder or a workdir.

    Args:
      text: with a [MASK], for a pretrained model; the question, for question answering.
      pair: a second text; the context, for question answering.
      label: to explain in place of the prediction; for a pretrained model a piece of the vocabulary.
      steps: of the integral; more make the convergence delta smaller.

    Raises:
      FileNotFoundError, UserError: there is no model, no such label, or the text cannot be used.
    """
    loaded = load_model(directory)
    text, pair = sanitize(text), None if pair is None else sanitize(pair)
    for name, given in ("the text", text), ("the text of --pair", pair):
        require(given is None or not is_blank(given), f"{name} is empty")
    settings = loaded.network.settings
    if not isinstance(settings, TaskConfig) and not loaded.network.objective.PREDICTS_TOKENS:
        raise UserError(f"{directory} holds a model for {settings.kind}, which predicts no words to explain")
    if isinstance(settings, TaskConfig):
        target = _task_target(loaded, settings, text, pair, label)
    else:
        target = _mask_target(loaded, text, pair, label)
    return _explained(loaded, target, steps)


def report(explanation: Explanation, *, strongest: int = 5) -> list[str]:
    """The prediction, what it rests on, and whether the attributions add up."""
    pairs = zip(explanation.tokens, explanation.attributions, strict=True)
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1]))
    return [
        explanation.prediction,
        f"{explanation.target}: {explanation.output:.4f}, {explanation.baseline:.4f} with every word empty",
        *(f"  {value:+.4f}  {token}" for token, value in ranked[:strongest]),
        f"the attributions sum to the difference; convergence delta {explanation.convergence_delta:.2g}",
    ]


def to_json(explanation: Explanation) -> str:
    """All of it, the attention maps to 4 digits."""
    fields = vars(explanation) | {"convergence_delta": explanation.convergence_delta}
    maps = fields.pop("attentions").astype(np.float64)
    # A layer at a time: those of a long text are millions of numbers, each an object while it is written.
    layers = ",".join(json.dumps(layer.round(4).tolist(), separators=(",", ":")) for layer in maps)
    return f'{json.dumps(fields, ensure_ascii=False)[:-1]}, "attentions": [{layers}]}}\n'


def _explained(loaded: LoadedModel, target: _Target, steps: int) -> Explanation:
    network, params, tokenizer = loaded
    ids_S = np.asarray(target.batch["token_ids"][0])
    tokens = [tokenizer.pieces[i] for i in ids_S]
    special = tokenizer.special_tokens
    kept_S = jnp.array([i in (special.cls, special.sep) for i in ids_S])

    @functools.partial(jax.jit, static_argnums=2)
    def run(params: Params, batch: Batch, steps: int) -> tuple[jax.Array, ...]:
        encoder = modules(network, params).encoder
        table_VxD = encoder.word_embeddings[...]
        words_SxD, baseline_SxD = words_and_baseline(
            table_VxD, batch["token_ids"][0], kept_S, pad=special.pad
        )

        def output(x_SxD: jax.Array) -> jax.Array:
            return target.value(params, {**batch, "word_embeddings": x_SxD[None]})

        found_S = integrated_gradients(output, words_SxD, baseline_SxD, steps=steps)
        return output(words_SxD), output(baseline_SxD), found_S, encoder.attention_maps(batch)

    batch = {name: jnp.asarray(array) for name, array in target.batch.items()}
    out, base, found_S, maps = jax.device_get(run(params, batch, steps))
    return Explanation(
        target.prediction, target.name, float(out), float(base), tokens, found_S.tolist(), maps
    )


def _mask_target(loaded: LoadedModel, text: str, pair: str | None, label: str | None) -> _Target:
    """The log-probability of a piece in place of the first [MASK]."""
    network, params, tokenizer = loaded
    mask, pieces = tokenizer.mask_token, tokenizer.pieces
    encoding = tokenizer.huggingface.encode(text, pair)
    columns = masked_columns(encoding, tokenizer)
    if not columns:
        raise UserError(f"the text has no {mask}, and the model was only pretrained: {text!r}")
    batch = masked_batch(encoding, columns[:1], longest=network.model.longest)

    def logits(params: Params, batch: Batch) -> jax.Array:
        return token_logits(network, params, batch)[0]

    best = int(jax.jit(logits)(params, jax.tree.map(jnp.asarray, batch)).argmax())
    chosen = best if label is None else tokenizer.ids.get(label)
    if chosen is None:
        raise UserError(f"{label!r} is no piece of the vocabulary")
    return _Target(
        batch,
        f"{mask} is {pieces[best]}",
        f"log-probability of {pieces[chosen]}",
        lambda params, batch: jax.nn.log_softmax(logits(params, batch))[chosen],
    )


def _task_target(
    loaded: LoadedModel, settings: TaskConfig, text: str, pair: str | None, label: str | None
) -> _Target:
    """What the task explains of its prediction."""
    network, params, tokenizer = loaded
    task = task_of(settings)
    example = task.example(text, pair, settings)
    ((_, features),) = make_splits(settings, [[example]], tokenizer)
    used = int(features.arrays["segment_lengths"][0].sum())
    if features.cut:
        raise UserError(f"{features.cut[0]} is too long: its end would be cut off")
    if len(features.examples_N) > 1:
        raise UserError(
            f"the context is longer than the {settings.sequence_length} tokens of a row leave for it"
        )
    S = features.arrays["token_ids"].shape[1]
    batch = {
        name: array[:, :used] if array.shape[1:] == (S,) else array
        for name, array in unpack(features.arrays).items()
    }
    features = features._replace(arrays=batch, places=features.places[:, :used])

    def logits(params: Params, batch: Batch) -> jax.Array:
        with precision(network.model.dtype):
            both = modules(network, params)
            return task.logits(settings, both.objective, both.encoder, batch, kernels=PLAIN)

    found = np.asarray(jax.jit(logits)(params, jax.tree.map(jnp.asarray, batch)))
    prediction, name, value = task.explain(example, features, found, settings, label)
    return _Target(batch, prediction, name, lambda params, batch: value(logits(params, batch)))
