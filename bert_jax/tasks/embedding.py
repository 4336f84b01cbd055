"""Embeddings: a vector for a text, trained on texts that go together (Reimers and Gurevych 2019).

The texts of an example are the packed sequences of one row: the anchor, its positive, and its negatives. So
rows have no padding between texts, and all of an example stays together.

Shapes in names: B rows of a batch, N rows of all examples, P texts of a row at most, S row length, D hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config import EmbeddingConfig, EncoderConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule, max_segments
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits, weighted
from bert_jax.ops import contrastive
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.pooling import normalized, pool
from bert_jax.tasks import columns, groups, ranking, records
from bert_jax.tasks.features import Features
from bert_jax.tasks.groups import Texts
from bert_jax.tasks.pieces import Pieces
from bert_jax.tasks.records import Empty
from bert_jax.tasks.requirements import check_installed
from bert_jax.tasks.task import Target
from data_pipeline.compression import kind_of
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

Config = EmbeddingConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "batch"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "Model"


# Examples


def read(source: str, settings: EmbeddingConfig, *, labelled: bool = True) -> list[Texts | Empty]:
    """Reads .tsv (no quoting: a quote is a character) and .csv with a header line, .jsonl, or TFDS; and .txt,
    a text a line, which is its own positive (SimCSE; Gao et al. 2021, arXiv 2104.08821, section 3)."""
    formats = groups.FORMATS | {".txt": records.text_lines(settings.anchor)}
    found = records.read(
        source, formats, kind=settings.kind, columns=(*groups.text_columns(settings), settings.score)
    )
    alone = kind_of(source) == ".txt"
    make = functools.partial(_example, settings=settings, labelled=labelled, alone=alone)
    return list(records.examples(found, make, labelled=labelled))


def read_stdin(lines: Iterable[bytes], settings: EmbeddingConfig) -> Iterator[Texts | Empty]:
    """A text a line."""
    found = records.texts(records.STDIN, records.decoded(lines, records.STDIN), settings.anchor)
    make = functools.partial(_example, settings=settings, labelled=False)
    return records.examples(found, make, labelled=False)


def _example(
    where: str, record: dict[str, Any], *, settings: EmbeddingConfig, labelled: bool, alone: bool = False
) -> Texts:
    anchor = groups.text(where, record, settings.anchor, "anchor", labelled=labelled)
    if not labelled:
        return Texts(where, (anchor,))
    if alone:
        if settings.loss != "contrastive":
            raise UserError(f"{where}: plain text has no scores; task.loss contrastive learns from it")
        return Texts(where, (anchor, anchor))
    texts = anchor, groups.text(where, record, settings.positive, "positive", labelled=labelled)
    if settings.loss == "cosent":
        value = columns.column(where, record, settings.score, columns.advice("score", labelled=labelled))
        return Texts(where, texts, (columns.number(where, settings.score, value),))
    negatives = groups.negatives(where, record, settings)
    if settings.loss == "contrastive":
        return Texts(where, (*texts, *negatives))
    if not negatives:
        raise UserError(
            f"{where} has no negative, which task.loss margin_mse compares with the positive: name its "
            "column with --task.negative"
        )
    return Texts(where, (*texts, *negatives), _margins(where, record, settings, count=len(negatives)))


def _margins(
    where: str, record: dict[str, Any], settings: EmbeddingConfig, *, count: int
) -> tuple[float, ...]:
    """Differences to the positive's score, which are given, or the scores of all."""
    value = columns.column(where, record, settings.score, columns.advice("score", labelled=True))
    numbers = [
        columns.number(where, settings.score, number)
        for number in (value if isinstance(value, list) else [value])
    ]
    if len(numbers) == count + 1:
        return tuple(numbers[0] - number for number in numbers[1:])
    if len(numbers) == count:
        return tuple(numbers)
    raise UserError(
        f"{where}: {settings.score!r} has {len(numbers)} numbers for a positive and {count} negatives; it "
        f"must have {count + 1} scores, the positive's first, or {count} differences to it"
    )


def example(text: str, pair: str | None, settings: EmbeddingConfig) -> Texts:
    """Two texts that are typed, to explain how alike they are."""
    if pair is None:
        raise UserError("the model compares texts: give the second one with --pair")
    return Texts("the text", (text, pair))


def with_labels(settings: EmbeddingConfig, examples: Sequence[Texts]) -> EmbeddingConfig:
    """`settings` as they are: there are no labels. Raises UserError if nothing can be learned."""
    if settings.loss == "contrastive":
        groups.check_compares(settings.train, examples)
    return settings


def featurize(examples: Sequence[Texts], tokenizer: Tokenizer, settings: EmbeddingConfig) -> Features:
    """labels: [N, P] int32, equal for equal texts, for contrastive; [N] float32 for cosent; [N, P - 2]
    float32, NaN where there is no negative, for margin_mse."""
    pieces, S = Pieces(tokenizer), settings.sequence_length
    N, P = len(examples), max(len(example.texts) for example in examples)
    room = S - pieces.alone.size
    prompts = (settings.query_prompt, *[settings.document_prompt] * (P - 1))
    texts = [
        prompt + text for example in examples for prompt, text in zip(prompts, example.texts, strict=False)
    ]
    rows = ((pieces.alone.row(ids[:room], None)[0], len(ids) > room) for ids in pieces.of_texts(texts))
    arrays, cut = groups.packed(examples, rows, pad=pieces.pad, columns=P * S)
    if len(examples[0].texts) > 1:
        arrays |= {"labels": _labels(examples, settings, P=P), "weights": np.ones(N, np.float32)}
    return Features(
        arrays, np.arange(N, dtype=np.int32), np.zeros((N, 0), np.int32), cut, texts_may_move=True
    )


def _labels(examples: Sequence[Texts], settings: EmbeddingConfig, *, P: int) -> np.ndarray:
    match settings.loss:
        case "contrastive":
            return groups.text_ids(examples)
        case "cosent":
            return np.array([score for example in examples for score in example.scores], np.float32)
        case "margin_mse":
            margins = np.full((len(examples), P - 2), np.nan, np.float32)
            for n, example in enumerate(examples):
                margins[n, : len(example.scores)] = example.scores
            return margins


# Vectors and loss


def refuses(settings: EmbeddingConfig, encoder: Encoder, data: DataConfig | None) -> str | None:
    return None


def init(settings: EmbeddingConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    """Nothing: the encoder's hidden states are pooled as they are."""
    if too_large := [size for size in settings.dimensions if size > model.hidden_size]:
        raise UserError(
            f"task.dimensions has {too_large[0]}, but the vectors of init.source have {model.hidden_size}"
        )
    return nnx.Module()


def logits(
    settings: EmbeddingConfig,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """[B, P * D]: the vectors of the texts in a row, one after the other."""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    vectors_BxPxD = pool(
        hidden_BxSxD, batch["segment_ids"], sequences=max_segments(batch), how=settings.pooling
    )
    if settings.normalize:
        vectors_BxPxD = normalized(vectors_BxPxD)
    return vectors_BxPxD.reshape(len(vectors_BxPxD), -1)


def loss_sums(settings: EmbeddingConfig, logits: jax.Array, batch: Batch) -> Sums:
    """loss, the mean over the whole vectors and those cut to each of task.dimensions; and of whole ones
    accuracy, how often the positive is closest, and left_out, the share of negatives that task.margin leaves
    out."""
    vectors_BxPxD = logits.reshape(len(logits), max_segments(batch), -1)
    if "text_places" in batch:
        vectors_BxPxD = vectors_BxPxD.reshape(-1, vectors_BxPxD.shape[-1])[batch["text_places"]]
    sizes = dict.fromkeys((vectors_BxPxD.shape[-1], *settings.dimensions))
    found = [_sums(settings, vectors_BxPxD[:, :, :size], batch) for size in sizes]
    weight = batch["weights"].sum()
    losses = jnp.stack([sums["loss"][0] for sums in found])
    return found[0] | {"loss": (losses.mean(), weight)}


sums = through_logits(logits, loss_sums)


def _sums(settings: EmbeddingConfig, vectors_BxPxD: jax.Array, batch: Batch) -> Sums:
    labels, weights_B = batch["labels"], batch["weights"]
    unit_BxPxD = normalized(vectors_BxPxD)
    anchors_BxD, texts_BxTxD = unit_BxPxD[:, 0], unit_BxPxD[:, 1:]
    match settings.loss:
        case "cosent":
            cosines_B = (anchors_BxD * texts_BxTxD[:, 0]).sum(axis=-1)
            loss = contrastive.cosent(cosines_B, labels, weights_B, temperature=settings.temperature)
            return {"loss": (loss * weights_B.sum(), weights_B.sum())}
        case "contrastive":
            found = contrastive.in_batch(
                contrastive.scores(anchors_BxD, texts_BxTxD),
                labels,
                weights_B,
                temperature=settings.temperature,
                symmetric=settings.symmetric,
                margin=settings.margin,
            )
            of_rows = {"loss": found.nll_B, "accuracy": found.hit_B}
            if settings.margin is not None:
                of_rows["left_out"] = found.left_out_B
        case "margin_mse":
            kept_BxPxD = unit_BxPxD if settings.normalize else vectors_BxPxD
            exists_BxN = ~jnp.isnan(labels)
            loss_B, hit_B = contrastive.margin_mse(
                kept_BxPxD[:, 0], kept_BxPxD[:, 1:], jnp.where(exists_BxN, labels, 0), exists_BxN
            )
            of_rows = {"loss": loss_B, "accuracy": hit_B}
    return weighted(of_rows, weights_B)


def weights(batch: Batch) -> dict[str, jax.Array]:
    return {"loss": batch["weights"].sum()}


def flops(settings: EmbeddingConfig, model: EncoderConfig, rows: RowShape) -> float:
    """None: the scores are of the batch, not of a row, and few beside the encoder."""
    return 0.0


def kept_bytes(settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
    return rows.max_sequences * model.hidden_size * 4


# Predictions and scores


def predict(
    examples: Sequence[Texts], features: Features, logits: np.ndarray, settings: EmbeddingConfig
) -> list[dict[str, Any]]:
    """embedding, of the anchor; with others, embeddings: one for each text."""
    assert len(logits) == len(features.examples_N)
    P = features.arrays["segment_lengths"].shape[1]
    vectors_NxPxD = logits.reshape(len(logits), P, -1)
    if P == 1:
        return [{"embedding": vector_D.tolist()} for vector_D in vectors_NxPxD[:, 0]]
    return [
        {"embeddings": vectors_PxD[: len(example.texts)].tolist()}
        for example, vectors_PxD in zip(examples, vectors_NxPxD, strict=True)
    ]


def metrics(settings: EmbeddingConfig) -> tuple[Metric, ...]:
    if settings.loss == "cosent":
        return (
            Metric("spearman", "Spearman's correlation of cosines and scores"),
            Metric("pearson", "Pearson's correlation of cosines and scores"),
        )
    return (
        Metric("mrr", "Mean reciprocal rank of the positive among all texts"),
        Metric("accuracy", "Share of anchors whose positive is the closest of all texts"),
    )


def check_libraries() -> None:
    check_installed("scipy")


def score(
    examples: Sequence[Texts], predictions: Sequence[dict[str, Any]], settings: EmbeddingConfig
) -> dict[str, float]:
    """Correlations of SciPy for cosent; else the ranks of positives among all positives and negatives."""
    assert len(examples) == len(predictions) > 0
    vectors = [np.asarray(prediction["embeddings"], np.float32) for prediction in predictions]
    if settings.loss == "cosent":
        return ranking.correlations(
            np.stack([ranking.cosine(pair[0], pair[1]) for pair in vectors]),
            np.array([example.scores[0] for example in examples]),
        )
    ranks_N = ranking.ranks(
        ranking.cosines(
            np.stack([found[0] for found in vectors]), np.concatenate([found[1:] for found in vectors])
        ),
        anchors=[example.texts[0] for example in examples],
        texts=[text for example in examples for text in example.texts[1:]],
        positives=[example.texts[1] for example in examples],
    )
    return {"mrr": float((1 / ranks_N).mean()), "accuracy": float((ranks_N == 1).mean())}


def explain(
    example: Texts, features: Features, logits: np.ndarray, settings: EmbeddingConfig, label: str | None
) -> Target:
    if label is not None:
        raise UserError(f"there is no label {label!r}: the model compares texts")

    def cosine(logits: jax.Array) -> jax.Array:
        one_D, other_D = normalized(logits[0].reshape(2, -1))
        return (one_D * other_D).sum()

    value = float(cosine(jnp.asarray(logits)))
    return Target(f"a cosine of {value:.4f}", "the cosine", cosine)


# Hugging Face


def to_huggingface(settings: EmbeddingConfig) -> dict[str, Any]:
    return {}


def from_huggingface(suffix: str, fields: dict[str, Any]) -> EmbeddingConfig | None:
    """None: what an encoder without a head is for is not in config.json, but in files of its own."""
    return None
