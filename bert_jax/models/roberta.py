"""RoBERTa (Liu et al. 2019), and XLM-RoBERTa and CamemBERT, which are the same under other names.

BERT's modules; positions begin behind the id of the padding. Reference implementation:
transformers/models/roberta/modeling_roberta.py.
"""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp

from bert_jax.config import CamembertConfig, RobertaConfig, XlmRobertaConfig
from bert_jax.models import bert, relatives
from bert_jax.models.encoder import HuggingFace
from bert_jax.models.relatives import Relative

LEFT_OUT = {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
"""What a field is that config.json leaves out: as in Transformers, not as in the published models."""


ROBERTA = Relative(
    Config=RobertaConfig,
    names=bert.Names(base="roberta"),
    HUGGINGFACE=HuggingFace(
        model_type="roberta",
        class_prefix="Roberta",
        base_prefix="roberta.",
        fields=(*bert.HUGGINGFACE.fields, "pad_token_id", "classifier_dropout"),
        constants=bert.HUGGINGFACE.constants,
        token_ids={"bos_token_id": "cls", "eos_token_id": "sep"},
        required=bert.HUGGINGFACE.required,
        values=bert.HUGGINGFACE.values,
        legacy_suffixes=bert.HUGGINGFACE.legacy_suffixes,
        tied={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        unused=(
            "roberta.embeddings.position_ids",
            "roberta.embeddings.token_type_ids",
            "roberta.pooler.dense.weight",
            "roberta.pooler.dense.bias",
        ),
        read_fields=lambda fields: {**LEFT_OUT, **fields},
    ),
    masked_lm_head=functools.partial(
        bert.MaskedLMHead,
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        bias="lm_head.bias",
        activation="gelu",
    ),
    sequence_classification_head=functools.partial(
        relatives.sequence_classification_head, activation=jnp.tanh
    ),
    token_classification_head=relatives.token_classification_head,
    question_answering_head=bert.question_answering_head,
)


def _named(config: type[RobertaConfig], *, class_prefix: str) -> Relative:
    """RoBERTa as another family of Transformers, whose vocabulary is BERT's where config.json has no size."""
    names = dataclasses.replace(
        ROBERTA.HUGGINGFACE,
        model_type=config.kind,
        class_prefix=class_prefix,
        read_fields=lambda fields: {**LEFT_OUT, "vocab_size": 30522, **fields},
    )
    return dataclasses.replace(ROBERTA, Config=config, HUGGINGFACE=names)


XLM_ROBERTA = _named(XlmRobertaConfig, class_prefix="XLMRoberta")
CAMEMBERT = _named(CamembertConfig, class_prefix="Camembert")
