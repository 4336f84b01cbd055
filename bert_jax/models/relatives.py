"""Encoders that compute as BERT does, with other names and heads: roberta.py, distilbert.py, electra.py.

Shapes in names: B rows, S row length, D hidden, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ElectraConfig, PostLNConfig, RobertaConfig
from bert_jax.models import bert
from bert_jax.models.encoder import HuggingFace
from bert_jax.ops.attention.kernel import Kernels
from data_pipeline.config import DataConfig


@dataclass(frozen=True)
class Relative:
    """An `Encoder` with BERT's modules and cost, without a head for sentence pairs."""

    Config: type[PostLNConfig]
    names: bert.Names
    HUGGINGFACE: HuggingFace
    masked_lm_head: Callable[..., Any]
    sequence_classification_head: Callable[..., Any]
    token_classification_head: Callable[..., Any]
    question_answering_head: Callable[..., Any]
    replaced_token_head: Callable[..., Any] | None = None

    pooler: ClassVar[None] = None
    next_sentence_classifier: ClassVar[None] = None

    def init(self, config: PostLNConfig, *, rngs: nnx.Rngs) -> bert.Bert:
        return bert.Bert(config, names=self.names, rngs=rngs)

    def refuses(self, config: PostLNConfig, data: DataConfig) -> str | None:
        return None

    def with_dropout(self, config: PostLNConfig, rate: float) -> PostLNConfig:
        return bert.with_dropout(config, rate)

    def attention_dropout(self, config: PostLNConfig) -> float:
        return bert.attention_dropout(config)

    def window(self, config: PostLNConfig) -> int | None:
        return bert.window(config)

    def flops(self, config: PostLNConfig, *, sequence_length: int) -> float:
        return bert.flops(config, sequence_length=sequence_length)

    def kept_bytes(
        self, config: PostLNConfig, *, sequence_length: int, kernels: Kernels, tensor: int = 1
    ) -> float:
        return bert.kept_bytes(config, sequence_length=sequence_length, kernels=kernels, tensor=tensor)


class FirstTokenHead(nnx.Module):
    """Dense, activation, dropout and dense on the first token: [B, S, D], segment ids -> [B, C] float32.

    Args:
      names: what Transformers calls the two layers.
      rate_before: of a dropout in front of the first layer.
    """

    def __init__(
        self,
        config: PostLNConfig,
        *,
        num_labels: int,
        names: tuple[str, str],
        activation: Callable[[jax.Array], jax.Array],
        rate_before: float,
        rate: float,
        rngs: nnx.Rngs,
    ):
        self.dense = bert.head_dense(config, config.hidden_size, None, names[0], rngs)
        self.classifier = bert.head_dense(config, num_labels, "labels", names[1], rngs)
        self.config, self.activation, self.rates = config, activation, (rate_before, rate)

    def __call__(
        self, hidden_BxSxD: jax.Array, segment_ids_BxS: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        config, (before, between) = self.config, self.rates
        x_Bx1xD = bert.head_dropout(config, hidden_BxSxD[:, :1], before, dropout_keys)
        x_Bx1xD = self.activation(self.dense(x_Bx1xD))
        x_Bx1xD = bert.head_dropout(config, x_Bx1xD, between, dropout_keys, index=1)
        return self.classifier(x_Bx1xD).astype(jnp.float32)[:, 0]


Configurable = RobertaConfig | ElectraConfig
"""Those that say in `classifier_dropout` how much the head of a task drops."""


def classifier_dropout(config: Configurable) -> float:
    rate = config.classifier_dropout
    return config.hidden_dropout_prob if rate is None else rate


def sequence_classification_head(
    config: Configurable,
    *,
    num_labels: int,
    activation: Callable[[jax.Array], jax.Array],
    rngs: nnx.Rngs,
) -> FirstTokenHead:
    """RobertaClassificationHead, ElectraClassificationHead: each has its activation."""
    rate = classifier_dropout(config)
    return FirstTokenHead(
        config,
        num_labels=num_labels,
        names=("classifier.dense", "classifier.out_proj"),
        activation=activation,
        rate_before=rate,
        rate=rate,
        rngs=rngs,
    )


def token_classification_head(config: Configurable, *, num_labels: int, rngs: nnx.Rngs) -> bert.TokenHead:
    """RobertaForTokenClassification, ElectraForTokenClassification."""
    rate = classifier_dropout(config)
    return bert.TokenHead(config, num_labels=num_labels, name="classifier", rate=rate, rngs=rngs)
