"""Regression: a number for a text, or for two, such as their similarity (Devlin et al. 2018, section 4.1).

Shapes in names: B rows of a batch, N rows of all examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config import EncoderConfig, RegressionConfig
from bert_jax.models.encoder import Batch, Encoder
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits
from bert_jax.tasks import classification, ranking, text
from bert_jax.tasks.columns import number
from bert_jax.tasks.features import Features, all_labelled
from bert_jax.tasks.records import Empty
from bert_jax.tasks.requirements import check_installed
from bert_jax.tasks.task import Target
from bert_jax.tasks.text import Text
from data_pipeline.errors import require
from data_pipeline.tokenizer import Tokenizer

Config = RegressionConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForSequenceClassification"

IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
"""What Sentence Transformers' CrossEncoder makes of the only logit."""

read_stdin = text.read_stdin
example = text.example
refuses = classification.refuses
logits = classification.logits
weights = classification.weights
kept_bytes = classification.kept_bytes


def read(source: str, settings: RegressionConfig, *, labelled: bool = True) -> list[Text | Empty]:
    """Reads .tsv (no quoting: a quote is a character) and .csv with a header line, .jsonl, or TFDS."""
    return text.read(source, settings, labelled=labelled, as_label=number)


def with_labels(settings: RegressionConfig, examples: Sequence[Text]) -> RegressionConfig:
    """A number has no labels."""
    return settings


def featurize(examples: Sequence[Text], tokenizer: Tokenizer, settings: RegressionConfig) -> Features:
    """labels: [N] float32; weights: [N]."""
    features = text.featurize(examples, tokenizer, sequence_length=settings.sequence_length)
    if all_labelled(examples, [example.label for example in examples]):
        features.arrays["labels"] = np.array([example.label for example in examples], np.float32)
        features.arrays["weights"] = np.ones(len(examples), np.float32)
    return features


def init(settings: Any, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    assert encoder.sequence_classification_head is not None
    return encoder.sequence_classification_head(model, num_labels=1, rngs=rngs)


def loss_sums(settings: Any, logits_Bx1: jax.Array, batch: Batch) -> Sums:
    """loss: the squared error."""
    weights = batch["weights"]
    return {"loss": ((jnp.square(logits_Bx1[:, 0] - batch["labels"]) * weights).sum(), weights.sum())}


sums = through_logits(logits, loss_sums)


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    D = model.hidden_size
    return 2 * (D * D + D)


def predict(
    examples: Sequence[Text], features: Features, logits: np.ndarray, settings: RegressionConfig
) -> list[dict[str, Any]]:
    """score: the number."""
    assert len(logits) == len(features.examples_N)
    return [{"score": float(score)} for score in logits[:, 0]]


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (
        Metric("pearson", "Pearson's correlation"),
        Metric("spearman", "Spearman's correlation"),
        Metric("mse", "Mean squared error", higher_is_better=False),
    )


def check_libraries() -> None:
    check_installed("scipy")


def score(
    examples: Sequence[Text], predictions: Sequence[dict[str, Any]], settings: RegressionConfig
) -> dict[str, float]:
    """Correlations of SciPy, and the mean squared error."""
    assert len(examples) == len(predictions) > 0
    truth = np.array([example.label for example in examples], np.float64)
    predicted = np.array([prediction["score"] for prediction in predictions], np.float64)
    return ranking.correlations(predicted, truth) | {"mse": float(np.mean((truth - predicted) ** 2))}


def explain(
    example: Text, features: Features, logits: np.ndarray, settings: RegressionConfig, label: str | None
) -> Target:
    (prediction,) = predict([example], features, logits, settings)
    classification.check_label(label, ())
    return Target(f"{prediction['score']:.4f}", "the number", lambda logits: logits[0, 0])


def to_huggingface(settings: RegressionConfig) -> dict[str, Any]:
    scores_pairs = {} if settings.pair is None else cross_encoder(IDENTITY)
    return {"problem_type": "regression", "num_labels": 1, **scores_pairs}


def cross_encoder(activation: str) -> dict[str, Any]:
    """The field of config.json that says it to a CrossEncoder."""
    return {"sentence_transformers": {"activation_fn": activation}}


def activation_of(fields: dict[str, Any]) -> str | None:
    """What config.json says of it; None if it is not of a CrossEncoder."""
    said = fields.get("sentence_transformers")
    if isinstance(said, dict) and "activation_fn" in said:
        return str(said["activation_fn"])
    return fields.get("sbert_ce_default_activation_function")  # before version 4


def from_huggingface(suffix: str, fields: dict[str, Any]) -> RegressionConfig | None:
    """A model with one logit. A CrossEncoder scores pairs; what `export` noted says more.

    Raises:
      UserError: it is a CrossEncoder whose scores are not computed here.
    """
    if suffix != HUGGINGFACE_SUFFIX or fields.get("problem_type") == "multi_label_classification":
        return None
    is_number = fields.get("problem_type") == "regression" or len(classification.labels_of(fields)) == 1
    activation = activation_of(fields)
    if not is_number or activation == SIGMOID:  # see reranking.py
        return None
    require(
        activation in (None, IDENTITY),
        f"the scores of this CrossEncoder are {activation} of the logit; known are {IDENTITY} and {SIGMOID}",
    )
    return RegressionConfig() if activation is None else RegressionConfig(text="anchor", pair="positive")
