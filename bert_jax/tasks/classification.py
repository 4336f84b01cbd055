"""Sequence classification: one of several labels for a text, or for two (Devlin et al. 2018, section 4.1).

Shapes in names: B rows of a batch, N rows of all examples, S row length, C labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from bert_jax.config import ClassificationConfig, EncoderConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.cross_entropy import cross_entropy
from bert_jax.tasks import text
from bert_jax.tasks.columns import canonical, label_reader
from bert_jax.tasks.features import Features, all_labelled, label_index
from bert_jax.tasks.records import Empty
from bert_jax.tasks.requirements import check_installed
from bert_jax.tasks.task import Target, lacks_head
from bert_jax.tasks.text import Text
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

Config = ClassificationConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForSequenceClassification"

read_stdin = text.read_stdin
example = text.example


# Examples


def read(source: str, settings: ClassificationConfig, *, labelled: bool = True) -> list[Text | Empty]:
    """Reads .tsv (no quoting: a quote is a character) and .csv with a header line, .jsonl, or TFDS."""
    return text.read(source, settings, labelled=labelled, as_label=label_reader(settings.labels))


def with_labels(settings: ClassificationConfig, examples: Sequence[Text]) -> ClassificationConfig:
    """`settings` with the labels of the examples, sorted, unless others were asked for."""
    found = tuple(sorted({str(example.label) for example in examples if example.label is not None}))
    labels = tuple(map(canonical, settings.labels)) or found
    if (count := len(settings.label_weights)) not in (0, len(labels)):
        raise UserError(
            f"task.label_weights has {count} numbers for {len(labels)} labels: {', '.join(labels)}"
        )
    return dataclasses.replace(settings, labels=labels)


def featurize(examples: Sequence[Text], tokenizer: Tokenizer, settings: ClassificationConfig) -> Features:
    """labels: [N] int32, index in the labels; weights: [N], of their labels."""
    features = text.featurize(examples, tokenizer, sequence_length=settings.sequence_length)
    if all_labelled(examples, [example.label for example in examples]):
        known = [label_index(example, example.label, settings.labels) for example in examples]
        features.arrays["labels"] = np.array(known, np.int32)
        by_label = np.asarray(settings.label_weights or [1.0] * len(settings.labels), np.float32)
        features.arrays["weights"] = by_label[known]
    return features


# Head and loss


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return lacks_head(settings, encoder, encoder.sequence_classification_head)


def init(
    settings: ClassificationConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs
) -> nnx.Module:
    assert encoder.sequence_classification_head is not None
    return encoder.sequence_classification_head(model, num_labels=len(settings.labels), rngs=rngs)


def logits(
    settings: Any,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """[B, C]"""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    return head(hidden_BxSxD, batch["segment_ids"], dropout_keys=dropout_keys)


def loss_sums(settings: Any, logits_BxC: jax.Array, batch: Batch) -> Sums:
    """loss, in nats, and accuracy."""
    weights = batch["weights"]
    loss, hits = cross_entropy(logits_BxC, batch["labels"], weights)
    return {"loss": (loss, weights.sum()), "accuracy": (hits, weights.sum())}


sums = through_logits(logits, loss_sums)


def weights(batch: Batch) -> dict[str, jax.Array]:
    return {"loss": batch["weights"].sum()}


def flops(settings: ClassificationConfig, model: EncoderConfig, rows: RowShape) -> float:
    D = model.hidden_size
    return 2 * (D * D + len(settings.labels) * D)


def kept_bytes(settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
    return 0.0


# Predictions and scores


def predict(
    examples: Sequence[Text], features: Features, logits: np.ndarray, settings: ClassificationConfig
) -> list[dict[str, Any]]:
    """label, and scores: {label: probability}."""
    assert len(logits) == len(features.examples_N)

    def prediction(probabilities_C: np.ndarray) -> dict[str, Any]:
        scores = dict(zip(settings.labels, probabilities_C.tolist(), strict=True))
        return {"label": settings.labels[int(probabilities_C.argmax())], "scores": scores}

    exponentials_NxC = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return [prediction(row_C / row_C.sum()) for row_C in exponentials_NxC]


def metrics(settings: ClassificationConfig) -> tuple[Metric, ...]:
    """F1 only where there are two labels; it is that of the second, as 1 of 0 and 1."""
    f1 = (Metric("f1", "F1 of the second label"),) if len(settings.labels) == 2 else ()
    return (
        Metric("accuracy", "Accuracy"),
        *f1,
        Metric("macro_f1", "Macro F1"),
        Metric("mcc", "Matthews' correlation"),
    )


def check_libraries() -> None:
    check_installed("sklearn")


def score(
    examples: Sequence[Text], predictions: Sequence[dict[str, Any]], settings: ClassificationConfig
) -> dict[str, float]:
    """Scores of scikit-learn; macro F1 is the mean over all labels that occur."""
    check_libraries()
    from sklearn import metrics

    assert len(examples) == len(predictions) > 0
    truth = [example.label for example in examples]
    predicted = [prediction["label"] for prediction in predictions]
    f1 = {}
    if len(settings.labels) == 2:
        second = [settings.labels[1]]
        f1["f1"] = float(metrics.f1_score(truth, predicted, labels=second, average="macro", zero_division=0))
    # A correlation is not defined where there is one label only: 0.0, as scikit-learn says with a warning.
    constant = len({*truth, *predicted}) == 1
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        **f1,
        "macro_f1": float(metrics.f1_score(truth, predicted, average="macro", zero_division=0)),
        "mcc": 0.0 if constant else float(metrics.matthews_corrcoef(truth, predicted)),
    }


def explain(
    example: Text, features: Features, logits: np.ndarray, settings: ClassificationConfig, label: str | None
) -> Target:
    (prediction,) = predict([example], features, logits, settings)
    check_label(label, settings.labels)
    chosen = label or prediction["label"]
    index = settings.labels.index(chosen)
    return Target(
        f"{prediction['label']} ({prediction['scores'][prediction['label']]:.1%})",
        f"log-probability of {chosen}",
        lambda logits: jax.nn.log_softmax(logits[0])[index],
    )


def check_label(label: str | None, labels: Sequence[str]) -> None:
    """Raises UserError if a label that is to be explained is none of the model's."""
    if label is not None and label not in labels:
        raise UserError(f"there is no label {label!r}; there are {', '.join(labels) or 'none'}")


# Hugging Face


def to_huggingface(settings: ClassificationConfig) -> dict[str, Any]:
    return {"problem_type": "single_label_classification"} | label_fields(settings.labels)


def label_fields(labels: Sequence[str]) -> dict[str, Any]:
    """id2label and label2id."""
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def labels_of(fields: dict[str, Any]) -> tuple[str, ...]:
    """The labels that config.json names; Transformers leaves them out where there are two without a name."""
    names = fields.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        return tuple(str(names[key]) for key in sorted(names, key=int))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json has id2label {names!r}, which does not number labels") from error


def from_huggingface(suffix: str, fields: dict[str, Any]) -> ClassificationConfig | None:
    if suffix != HUGGINGFACE_SUFFIX:
        return None
    labels = labels_of(fields)
    is_other = fields.get("problem_type") in ("regression", "multi_label_classification")
    if is_other or len(labels) == 1:
        return None
    return ClassificationConfig(labels=labels)
