"""Reranking: how well a text goes with another, both read at once by a cross-encoder (Nogueira and Cho 2019).

The pairs of an example, its anchor with its positive and with each negative, are the packed sequences of one
row, so that they stay together.

Shapes in names: B rows of a batch, N rows of all examples, P pairs of a row at most, S row length, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config import EncoderConfig, RerankingConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.models.layers import fold_in
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits, weighted
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.tasks import groups, text
from bert_jax.tasks.classification import labels_of
from bert_jax.tasks.features import Features
from bert_jax.tasks.groups import Texts
from bert_jax.tasks.pieces import Pieces
from bert_jax.tasks.records import Empty
from bert_jax.tasks.regression import SIGMOID, activation_of, cross_encoder
from bert_jax.tasks.task import Target, lacks_head
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

Config = RerankingConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForSequenceClassification"


# Examples


def read(source: str, settings: RerankingConfig, *, labelled: bool = True) -> list[Texts | Empty]:
    """Reads .tsv (no quoting: a quote is a character) and .csv with a header line, .jsonl, or TFDS."""
    return groups.read(source, settings, _example, labelled=labelled)


def read_stdin(lines: Iterable[bytes], settings: RerankingConfig) -> Iterator[Texts | Empty]:
    """An object a line, of two texts."""
    return groups.read_pairs(lines, settings, _example)


def _example(settings: RerankingConfig, where: str, record: dict[str, Any], *, labelled: bool) -> Texts:
    found = groups.example(settings, where, record, labelled=labelled)
    if labelled and len(found.texts) < 3:
        raise UserError(
            f"{where} has no negative to tell the positive from: name its column with --task.negative"
        )
    return found


def example(text: str, pair: str | None, settings: RerankingConfig) -> Texts:
    """A pair that is typed, to be explained."""
    if pair is None:
        raise UserError("the model reads pairs: give the second text with --pair")
    return Texts("the text", (text, pair))


def with_labels(settings: RerankingConfig, examples: Sequence[Texts]) -> RerankingConfig:
    """`settings` as they are: the positive is the first."""
    return settings


def featurize(examples: Sequence[Texts], tokenizer: Tokenizer, settings: RerankingConfig) -> Features:
    """labels: [N] int32, zeros: the place of the positive."""
    pieces, S = Pieces(tokenizer), settings.sequence_length
    N, P = len(examples), max(len(example.texts) - 1 for example in examples)
    token_ids = np.full((N, P * S), pieces.pad, np.int32)
    lengths = np.zeros((N, P, 2), np.int32)
    room, cut = S - pieces.paired.size, []
    ids = pieces.of_texts([text for example in examples for text in example.texts])
    for n, example in enumerate(examples):
        anchor, *others = (next(ids) for _ in example.texts)
        end, is_cut = 0, False
        for p, other in enumerate(others):
            kept, kept_other = text.longest_first(len(anchor), len(other), room=room)
            row, lengths[n, p] = pieces.paired.row(anchor[:kept], other[:kept_other])
            token_ids[n, end : end + len(row)] = row
            end += len(row)
            is_cut = is_cut or kept + kept_other < len(anchor) + len(other)
        if is_cut:
            cut.append(example.where)
    arrays = {"token_ids": token_ids, "segment_lengths": lengths}
    if len(examples[0].texts) > 2:
        arrays |= {"labels": np.zeros(N, np.int32), "weights": np.ones(N, np.float32)}
    return Features(arrays, np.arange(N, dtype=np.int32), np.zeros((N, 0), np.int32), cut)


# Head and loss


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return lacks_head(settings, encoder, encoder.sequence_classification_head)


def init(settings: RerankingConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    assert encoder.sequence_classification_head is not None
    return encoder.sequence_classification_head(model, num_labels=1, rngs=rngs)


def logits(
    settings: RerankingConfig,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """[B, P]: one for each pair; of one that is not there, minus infinity as float32 has it."""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    ids_BxS = batch["segment_ids"]
    S, P = ids_BxS.shape[1], batch["cls_positions"].shape[1]
    found = []
    for p in range(P):  # each pair as a row of its own, as heads take it
        columns_BxS = (batch["cls_positions"][:, p, None] + jnp.arange(S)[None]) % S
        own_BxSxD = jnp.take_along_axis(hidden_BxSxD, columns_BxS[:, :, None], axis=1)
        own_ids_BxS = (jnp.take_along_axis(ids_BxS, columns_BxS, axis=1) == p + 1).astype(jnp.int32)
        logit_B = head(own_BxSxD, own_ids_BxS, dropout_keys=fold_in(dropout_keys, p))[:, 0]
        found.append(jnp.where((ids_BxS == p + 1).any(axis=1), logit_B, jnp.finfo(jnp.float32).min / 2))
    return jnp.stack(found, axis=1)


def loss_sums(settings: RerankingConfig, logits_BxP: jax.Array, batch: Batch) -> Sums:
    """loss, in nats; and accuracy: how often the positive is before all negatives of its example."""
    weights_B = batch["weights"]
    exists_BxP = logits_BxP > jnp.finfo(jnp.float32).min / 4
    match settings.loss:
        case "softmax":
            loss_B = jax.nn.logsumexp(logits_BxP, axis=1) - logits_BxP[:, 0]
        case "binary":
            signs_1xP = jnp.where(jnp.arange(logits_BxP.shape[1]) == 0, 1, -1)[None]
            loss_BxP = jnp.where(exists_BxP, -jax.nn.log_sigmoid(logits_BxP * signs_1xP), 0)
            loss_B = loss_BxP.sum(axis=1) / exists_BxP.sum(axis=1)
    hit_B = (logits_BxP[:, 1:] < logits_BxP[:, :1]).all(axis=1)
    return weighted({"loss": loss_B, "accuracy": hit_B}, weights_B)


sums = through_logits(logits, loss_sums)


def weights(batch: Batch) -> dict[str, jax.Array]:
    return {"loss": batch["weights"].sum()}


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    D = model.hidden_size
    return rows.max_sequences * 2 * (D * D + D)


def kept_bytes(settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
    """The hidden states of each pair in a row of its own."""
    return rows.max_sequences * rows.sequence_length * model.hidden_size * 4


# Predictions and scores


def predict(
    examples: Sequence[Texts], features: Features, logits: np.ndarray, settings: RerankingConfig
) -> list[dict[str, Any]]:
    """score, from 0 to 1, of the pair; of several, scores."""
    assert len(logits) == len(features.examples_N)
    scores_NxP = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, None)))
    if scores_NxP.shape[1] == 1:
        return [{"score": float(score)} for score in scores_NxP[:, 0]]
    return [
        {"scores": scores_P[: len(example.texts) - 1].tolist()}
        for example, scores_P in zip(examples, scores_NxP, strict=True)
    ]


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (
        Metric("mrr", "Mean reciprocal rank of the positive in its example"),
        Metric("accuracy", "Share of examples whose positive is the first"),
    )


def check_libraries() -> None:
    """None but NumPy."""


def score(
    examples: Sequence[Texts], predictions: Sequence[dict[str, Any]], settings: RerankingConfig
) -> dict[str, float]:
    """Among the texts of each example; of equal ones the positive is the last."""
    assert len(examples) == len(predictions) > 0
    scores = [np.asarray(prediction["scores"]) for prediction in predictions]
    ranks_N = np.array([1 + (found[1:] >= found[0]).sum() for found in scores])
    return {"mrr": float((1 / ranks_N).mean()), "accuracy": float((ranks_N == 1).mean())}


def explain(
    example: Texts, features: Features, logits: np.ndarray, settings: RerankingConfig, label: str | None
) -> Target:
    if label is not None:
        raise UserError(f"there is no label {label!r}: the model scores pairs")
    score = 1 / (1 + np.exp(-float(logits[0, 0])))
    return Target(f"{score:.4f}", "the logit", lambda logits: logits[0, 0])


# Hugging Face


def to_huggingface(settings: RerankingConfig) -> dict[str, Any]:
    return {
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        **cross_encoder(SIGMOID),
    }


def from_huggingface(suffix: str, fields: dict[str, Any]) -> RerankingConfig | None:
    """A CrossEncoder with one logit, as Sentence Transformers saves it."""
    if suffix != HUGGINGFACE_SUFFIX or activation_of(fields) != SIGMOID:
        return None
    return RerankingConfig() if len(labels_of(fields)) == 1 else None
