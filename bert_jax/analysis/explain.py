"""Why a trained model says what it says of a text: attributions of its answer, and attention maps."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.analysis.attributions import attention_maps, integrated_gradients, words_and_baseline
from bert_jax.config import Config
from bert_jax.interop.load import Trained, open_trained
from bert_jax.models import bert as model
from bert_jax.models.bert import Batch, Params
from bert_jax.tasks.data import data_section, make_splits
from bert_jax.tasks.examples import Example, Question, Text, Words
from bert_jax.tasks.predictions import predict
from data_pipeline.corpus import mended
from data_pipeline.errors import UserError


@dataclass(frozen=True)
class Explanation:
    """Of one answer about one text of S tokens."""

    answer: str
    """What the model says, in words."""
    quantity: str
    """The number that is explained."""
    output: float
    """That number."""
    baseline: float
    """The same with every token but [CLS] and [SEP] empty."""
    tokens: list[str]
    attributions: list[float]
    """What each token adds: together, output - baseline."""
    attentions: np.ndarray
    """[L, H, S, S] float32, by layer, head, query and key."""

    @property
    def gap(self) -> float:
        """By how much the attributions miss what they should sum to: the error of the quadrature."""
        return abs(sum(self.attributions) - (self.output - self.baseline))


class _Target(NamedTuple):
    """A row, and the number about it that is to be explained."""

    batch: dict[str, np.ndarray]
    answer: str
    quantity: str
    score: Callable[[Params, Batch], jax.Array]


def explain(
    directory: Path, text: str, *, pair: str | None = None, label: str | None = None, steps: int = 64
) -> Explanation:
    """Explains the answer of an exported folder or a workdir.

    Args:
      text: with a [MASK], for a pretrained model; the question, for qa.
      pair: a second text; the context, for qa.
      label: to explain in place of the answer; for a pretrained model a piece of the vocabulary.
      steps: of the integral; more make the gap smaller.

    Raises:
      FileNotFoundError, UserError: there is no model, no such label, or the text cannot be used.
    """
    trained = open_trained(directory)
    text, pair = mended(text), None if pair is None else mended(pair)
    if not text.strip() or (pair is not None and not pair.strip()):
        raise UserError("the text is empty" if not text.strip() else "the text of --pair is empty")
    target = (_of_mask if trained.config.head == "pretraining" else _of_task)(trained, text, pair, label)
    return _explained(trained, target, steps)


def report(explanation: Explanation, *, strongest: int = 5) -> list[str]:
    """The answer, what it rests on, and whether the attributions add up."""
    pairs = zip(explanation.tokens, explanation.attributions, strict=True)
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1]))
    return [
        explanation.answer,
        f"{explanation.quantity}: {explanation.output:.4f}, {explanation.baseline:.4f} with every word empty",
        *(f"  {value:+.4f}  {token}" for token, value in ranked[:strongest]),
        f"the attributions sum to the difference but for {explanation.gap:.2g}",
    ]


def to_json(explanation: Explanation) -> str:
    """All of it, the attention maps to 4 digits."""
    fields = vars(explanation) | {"gap": explanation.gap}
    maps = fields.pop("attentions").astype(np.float64)
    # A layer at a time: those of a long text are millions of numbers, each an object while it is written.
    layers = ",".join(json.dumps(layer.round(4).tolist(), separators=(",", ":")) for layer in maps)
    return f'{json.dumps(fields, ensure_ascii=False)[:-1]}, "attentions": [{layers}]}}\n'


def _explained(trained: Trained, target: _Target, steps: int) -> Explanation:
    ids_S = np.asarray(target.batch["token_ids"][0])
    tokens = [str(trained.tokenizer.id_to_token(int(i))) for i in ids_S]
    kept_S = jnp.array([token in ("[CLS]", "[SEP]") for token in tokens])

    @functools.partial(jax.jit, static_argnums=2)
    def run(params: Params, batch: Batch, steps: int) -> tuple[jax.Array, ...]:
        words_SxD, baseline_SxD = words_and_baseline(params, batch["token_ids"][0], kept_S)

        def output(x_SxD: jax.Array) -> jax.Array:
            return target.score(params, batch | {"word_embeddings": x_SxD[None]})

        found_S = integrated_gradients(output, words_SxD, baseline_SxD, steps=steps)
        maps = attention_maps(trained.config, params, batch)
        return output(words_SxD), output(baseline_SxD), found_S, maps

    batch = {name: jnp.asarray(array) for name, array in target.batch.items()}
    out, base, found_S, maps = jax.device_get(run(trained.params, batch, steps))
    return Explanation(
        target.answer, target.quantity, float(out), float(base), tokens, found_S.tolist(), maps
    )


def _of_mask(trained: Trained, text: str, pair: str | None, label: str | None) -> _Target:
    """The log-probability of a piece in place of the first [MASK]."""
    config, tokenizer = trained.config, trained.tokenizer
    encoding = tokenizer.encode(text) if pair is None else tokenizer.encode(text, pair)
    S = len(encoding.ids)
    columns = [i for i, token in enumerate(encoding.tokens) if token == "[MASK]"]
    if not columns:
        raise UserError(f"the text has no [MASK], and the model was only pretrained: {text!r}")
    if config.max_position_embeddings < S:
        raise UserError(f"the text has {S} tokens, the model takes {config.max_position_embeddings}")
    batch = {
        "token_ids": np.array([encoding.ids], np.int32),
        "segment_ids": np.ones((1, S), np.int32),
        "position_ids": np.arange(S, dtype=np.int32)[None],
        "token_type_ids": np.array([encoding.type_ids], np.int32),
        "mlm_positions": np.array([columns[:1]], np.int32),
        "cls_positions": np.zeros((1, 1), np.int32),
    }

    def logits(params: Params, batch: Batch) -> jax.Array:
        return model.apply(config, params, batch).mlm_BxKxV[0, 0]

    best = int(jax.jit(logits)(trained.params, jax.tree.map(jnp.asarray, batch)).argmax())
    chosen = best if label is None else tokenizer.token_to_id(label)
    if chosen is None:
        raise UserError(f"{label!r} is no piece of the vocabulary")
    piece = tokenizer.id_to_token(chosen)
    return _Target(
        batch,
        f"[MASK] is {tokenizer.id_to_token(best)}",
        f"log-probability of {piece}",
        lambda params, batch: jax.nn.log_softmax(logits(params, batch))[chosen],
    )


def _of_task(trained: Trained, text: str, pair: str | None, label: str | None) -> _Target:
    config = Config(model=trained.config, data=data_section(trained.task.sequence_length), task=trained.task)
    example = _example(trained, text, pair)
    ((_, features),) = make_splits(config, [[example]], trained.tokenizer)
    used = int(features.arrays["segment_ids"][0].sum())
    if features.cut and trained.config.head == "qa":
        raise UserError("the question is too long: its end would be cut off")
    if len(features.examples_N) > 1 or features.cut:
        raise UserError(f"the text is longer than the {trained.task.sequence_length} tokens of a row")
    batch = {name: array[:, :used] for name, array in features.arrays.items()}
    whole = features._replace(arrays=batch, places=features.places[:, :used])

    def logits(params: Params, batch: Batch) -> jax.Array:
        return model.task_logits(trained.config, params, batch)

    found = np.asarray(jax.jit(logits)(trained.params, jax.tree.map(jnp.asarray, batch)))
    labels = trained.config.labels
    head = trained.config.head
    assert head != "pretraining"
    (said,) = predict(head, [example], whole, found, labels=labels, task=trained.task)
    if label is not None and label not in labels:
        raise UserError(f"there is no label {label!r}; there are {', '.join(labels) or 'none'}")
    answer, quantity, score = _score(trained, said, whole.places, found, label)
    return _Target(batch, answer, quantity, lambda params, batch: score(logits(params, batch)))


def _example(trained: Trained, text: str, pair: str | None) -> Example:
    match trained.config.head:
        case "tokens":
            return Words("the text", tuple(text.split()))
        case "qa":
            if pair is None:
                raise UserError("give the context of the question with --pair")
            return Question("the text", "0", text, pair)
        case _:
            if trained.task.pair is not None and pair is None:
                raise UserError(f"the model was trained on pairs: give {trained.task.pair!r} with --pair")
            return Text("the text", text, pair)


def _score(
    trained: Trained, said: dict[str, Any], places: np.ndarray, logits: np.ndarray, label: str | None
) -> tuple[str, str, Callable[[jax.Array], jax.Array]]:
    """The answer in words, the quantity in words, and the quantity of logits."""
    labels = list(trained.config.labels)
    match trained.config.head:
        case "classification":
            chosen = label or said["label"]
            n = labels.index(chosen)
            answer = f"{said['label']} ({said['scores'][said['label']]:.1%})"
            return answer, f"log-probability of {chosen}", lambda x: jax.nn.log_softmax(x[0])[n]
        case "regression":
            return f"{said['score']:.4f}", "the number", lambda x: x[0, 0]
        case "tokens":  # the word that has a label most surely, of those that are no O if there are any
            answer = " ".join(f"{w}/{tag}" for w, tag in zip(said["words"], said["labels"], strict=True))
            columns = np.flatnonzero(places[0] >= 0)
            asked = [label] if label else [name for name in labels if name != "O"] or labels
            wanted = [labels.index(name) for name in asked]
            sure = np.asarray(jax.nn.log_softmax(jnp.asarray(logits[0]), axis=-1))[columns][:, wanted]
            row, column = np.unravel_index(int(sure.argmax()), sure.shape)
            s, n = int(columns[row]), wanted[int(column)]
            word = said["words"][places[0][s]]
            quantity = f"log-probability of {labels[n]} for {word}"
            return answer, quantity, lambda x: jax.nn.log_softmax(x[0, s])[n]
        case _:
            first, last = _columns(said, places[0])
            wanted_text = said["answer"] or "no answer"
            return (
                wanted_text,
                f"log-probability of {wanted_text}",
                lambda x: jax.nn.log_softmax(x[0, :, 0])[first] + jax.nn.log_softmax(x[0, :, 1])[last],
            )


def _columns(said: dict[str, Any], places_Sx2: np.ndarray) -> tuple[int, int]:
    """First and last column of an answer; [CLS] twice where there is none."""
    if not said["answer"]:
        return 0, 0
    start, end = said["start"], said["start"] + len(said["answer"])
    inside = np.flatnonzero((places_Sx2[:, 0] >= start) & (places_Sx2[:, 1] <= end))
    return int(inside[0]), int(inside[-1])
