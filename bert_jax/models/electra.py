"""ELECTRA (Clark et al. 2020, arXiv 2003.10555): BERT's modules, with embeddings of a width of their own.

A masked-LM head makes it a generator, a head for replaced tokens a discriminator.
Reference implementation: transformers/models/electra/modeling_electra.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ElectraConfig
from bert_jax.models import bert, relatives
from bert_jax.models.encoder import HuggingFace
from bert_jax.models.relatives import Relative
from bert_jax.ops.activations import ACTIVATIONS, gelu


class ReplacedTokenHead(nnx.Module):
    """ElectraDiscriminatorPredictions: [B, S, D] -> [B, S] float32 logits of having been replaced."""

    def __init__(self, config: ElectraConfig, *, rngs: nnx.Rngs):
        name = "discriminator_predictions"
        self.dense = bert.head_dense(config, config.hidden_size, None, f"{name}.dense", rngs)
        self.prediction = bert.head_dense(config, 1, None, f"{name}.dense_prediction", rngs)
        self.activation = config.hidden_act

    def __call__(self, hidden_BxSxD: jax.Array) -> jax.Array:
        x_BxSxD = ACTIVATIONS[self.activation](self.dense(hidden_BxSxD))
        return self.prediction(x_BxSxD).astype(jnp.float32)[..., 0]


ELECTRA = Relative(
    Config=ElectraConfig,
    names=bert.Names(base="electra"),
    HUGGINGFACE=HuggingFace(
        model_type="electra",
        class_prefix="Electra",
        base_prefix="electra.",
        fields=(*bert.HUGGINGFACE.fields, "embedding_size", "classifier_dropout"),
        # The summary is of a class for multiple choice, which nothing here has.
        constants={
            **bert.HUGGINGFACE.constants,
            "summary_type": "first",
            "summary_use_proj": True,
            "summary_activation": "gelu",
            "summary_last_dropout": 0.1,
        },
        token_ids={"pad_token_id": "pad"},
        required=bert.HUGGINGFACE.required,
        values=bert.HUGGINGFACE.values,
        legacy_suffixes=bert.HUGGINGFACE.legacy_suffixes,
        tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
        unused=(
            "electra.embeddings.position_ids",
            "electra.embeddings.token_type_ids",
            "discriminator_predictions.dense.weight",
            "discriminator_predictions.dense.bias",
            "discriminator_predictions.dense_prediction.weight",
            "discriminator_predictions.dense_prediction.bias",
        ),
    ),
    masked_lm_head=functools.partial(
        bert.MaskedLMHead,
        dense="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        bias="generator_lm_head.bias",
        activation="gelu",
    ),
    replaced_token_head=ReplacedTokenHead,
    sequence_classification_head=functools.partial(relatives.sequence_classification_head, activation=gelu),
    token_classification_head=relatives.token_classification_head,
    question_answering_head=bert.question_answering_head,
)
