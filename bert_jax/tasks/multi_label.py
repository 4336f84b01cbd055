"""Multi-label classification: any number of several labels for a text, or for two; none is an answer too.

Shapes in names: B rows of a batch, N rows of all examples, C labels.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import MultiLabelConfig
from bert_jax.models.encoder import Batch
from bert_jax.objectives.objective import Metric, Sums, through_logits, weighted
from bert_jax.tasks import classification, text
from bert_jax.tasks.columns import canonical, label_reader
from bert_jax.tasks.features import Features, all_labelled, label_index
from bert_jax.tasks.records import Empty
from bert_jax.tasks.requirements import check_installed
from bert_jax.tasks.task import Target
from bert_jax.tasks.text import Text
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

Config = MultiLabelConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForSequenceClassification"

read_stdin = text.read_stdin
example = text.example
refuses = classification.refuses
init = classification.init
logits = classification.logits
weights = classification.weights
flops = classification.flops
kept_bytes = classification.kept_bytes


# Examples


def read(source: str, settings: MultiLabelConfig, *, labelled: bool = True) -> list[Text | Empty]:
    """Reads .tsv (no quoting: a quote is a character) and .csv with a header line, .jsonl, or TFDS."""
    return text.read(source, settings, labelled=labelled, as_label=labels_reader(settings.labels))


def labels_reader(labels: Sequence[str]) -> Callable[[str, str, Any], tuple[str, ...]]:
    """What reads a list of labels, or a text with commas between them; each as `label_reader` does.

    Or a list of a 0 or 1 for each of `labels`, as Transformers' loss takes it.
    """
    one, names = label_reader(labels), tuple(map(canonical, labels))

    def read(where: str, name: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = _listed(where, name, value.strip())
        items = value if isinstance(value, list) else [value]
        if _are_indicators(items):
            if len(items) != len(names):
                raise UserError(
                    f"{where}: {name!r} has a 0 or 1 for each of {len(items)} labels, but task.labels names "
                    f"{len(names)}: name them with --task.labels, in their order"
                )
            return tuple(label for label, item in zip(names, items, strict=True) if item)
        found = tuple(one(where, name, item) for item in items)
        if twice := [label for label in found if found.count(label) > 1]:
            raise UserError(f"{where}: {name!r} has {twice[0]!r} twice")
        return found

    return read


def _are_indicators(items: list[Any]) -> bool:
    """Whether these are a 0 or 1 for each label, rather than numbers of labels: whole, each of them once."""
    are = len(items) > 1 and all(isinstance(item, int | float) and item in (0, 1) for item in items)
    return are and (len(set(items)) < len(items) or not all(type(item) is int for item in items))


def _listed(where: str, name: str, cell: str) -> list[Any]:
    """The labels in a cell of a table: with commas between them, or as Python and JSON write a list."""
    if not cell.startswith("["):
        return cell.split(",") if cell else []
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, list):
        raise UserError(f"{where}: {name!r} is {cell!r}, which begins as a list does and is none")
    return found


def with_labels(settings: MultiLabelConfig, examples: Sequence[Text]) -> MultiLabelConfig:
    """`settings` with the labels of the examples, sorted, unless others were asked for."""
    found = {label for example in examples for label in _labels(example)}
    labels = tuple(map(canonical, settings.labels)) or tuple(sorted(found))
    if not labels:
        raise UserError(
            f"no example has a label in the column {settings.label!r}; choose one with --task.label"
        )
    return dataclasses.replace(settings, labels=labels)


def _labels(example: Text) -> tuple[str, ...]:
    return example.label if isinstance(example.label, tuple) else ()


def featurize(examples: Sequence[Text], tokenizer: Tokenizer, settings: MultiLabelConfig) -> Features:
    """labels: [N, 1, C] float32, 1 for those that a text has; weights: [N]."""
    features = text.featurize(examples, tokenizer, sequence_length=settings.sequence_length)
    if all_labelled(examples, [example.label for example in examples]):
        # The axis of size 1 is no axis of columns, whatever number of labels there is.
        features.arrays["labels"] = _indicators(examples, settings)[:, None]
        features.arrays["weights"] = np.ones(len(examples), np.float32)
    return features


def _indicators(examples: Sequence[Text], settings: MultiLabelConfig) -> np.ndarray:
    """[N, C] float32"""
    found_NxC = np.zeros((len(examples), len(settings.labels)), np.float32)
    for row_C, example in zip(found_NxC, examples, strict=True):
        row_C[[label_index(example, label, settings.labels) for label in _labels(example)]] = 1
    return found_NxC


# Loss


def loss_sums(settings: Any, logits_BxC: jax.Array, batch: Batch) -> Sums:
    """loss: binary cross-entropy in nats, the mean over labels; subset_accuracy: all of a text are right."""
    labels_BxC, weights_B = batch["labels"][:, 0], batch["weights"]
    # -log sigmoid(x) where the label is 1, -log(1 - sigmoid(x)) where it is 0.
    loss_B = (jax.nn.softplus(logits_BxC) - logits_BxC * labels_BxC).mean(axis=-1)
    right_B = ((logits_BxC > 0) == (labels_BxC > 0)).all(axis=-1).astype(jnp.float32)
    found = {"loss": loss_B, "subset_accuracy": right_B}
    return weighted(found, weights_B)


sums = through_logits(logits, loss_sums)


# Predictions and scores


def predict(
    examples: Sequence[Text], features: Features, logits: np.ndarray, settings: MultiLabelConfig
) -> list[dict[str, Any]]:
    """labels, those with a probability above 0.5, and scores: {label: probability}."""
    assert len(logits) == len(features.examples_N)
    probabilities_NxC = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return [
        {
            "labels": [label for label, p in zip(settings.labels, row_C, strict=True) if p > 0.5],
            "scores": dict(zip(settings.labels, row_C, strict=True)),
        }
        for row_C in probabilities_NxC.tolist()
    ]


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (
        Metric("micro_f1", "Micro F1"),
        Metric("macro_f1", "Macro F1"),
        Metric("subset_accuracy", "All labels right"),
    )


def check_libraries() -> None:
    check_installed("sklearn")


def score(
    examples: Sequence[Text], predictions: Sequence[dict[str, Any]], settings: MultiLabelConfig
) -> dict[str, float]:
    """Scores of scikit-learn; macro F1 is the mean over all labels that occur, 1 where none does."""
    check_libraries()
    from sklearn.metrics import f1_score

    assert len(examples) == len(predictions) > 0
    said = [Text("", "", label=tuple(prediction["labels"])) for prediction in predictions]
    truth_NxC, said_NxC = (_indicators(texts, settings) > 0 for texts in (examples, said))
    occurs_C = (truth_NxC | said_NxC).any(axis=0)
    by_label = [f1_score(truth_NxC[:, c], said_NxC[:, c]) for c in np.flatnonzero(occurs_C)]
    return {
        "micro_f1": float(f1_score(truth_NxC.ravel(), said_NxC.ravel(), zero_division=1.0)),
        "macro_f1": float(np.mean(by_label)) if by_label else 1.0,
        "subset_accuracy": float((truth_NxC == said_NxC).all(axis=1).mean()),
    }


def explain(
    example: Text, features: Features, logits: np.ndarray, settings: MultiLabelConfig, label: str | None
) -> Target:
    """The likeliest label, unless another one is asked for."""
    (prediction,) = predict([example], features, logits, settings)
    classification.check_label(label, settings.labels)
    scores = prediction["scores"]
    chosen = label or max(scores, key=scores.__getitem__)
    index = settings.labels.index(chosen)
    found = ", ".join(f"{name} ({scores[name]:.1%})" for name in prediction["labels"])
    return Target(
        found or f"none of the labels; {chosen} has {scores[chosen]:.1%}",
        f"log-probability of {chosen}",
        lambda logits: jax.nn.log_sigmoid(logits[0])[index],
    )


# Hugging Face


def to_huggingface(settings: MultiLabelConfig) -> dict[str, Any]:
    return {"problem_type": "multi_label_classification"} | classification.label_fields(settings.labels)


def from_huggingface(suffix: str, fields: dict[str, Any]) -> MultiLabelConfig | None:
    if suffix != HUGGINGFACE_SUFFIX or fields.get("problem_type") != "multi_label_classification":
        return None
    return MultiLabelConfig(labels=classification.labels_of(fields))
