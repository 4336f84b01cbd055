"""Encoders, one a file."""

from __future__ import annotations

from bert_jax.config import EncoderConfig
from bert_jax.models import bert, modernbert
from bert_jax.models.distilbert import DISTILBERT
from bert_jax.models.electra import ELECTRA
from bert_jax.models.encoder import Encoder
from bert_jax.models.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

MODELS: tuple[Encoder, ...] = (
    bert,
    modernbert,
    ROBERTA,
    XLM_ROBERTA,
    CAMEMBERT,
    DISTILBERT,
    ELECTRA,
)


def encoder_of(config: EncoderConfig) -> Encoder:
    """The encoder that a config is for."""
    return next(model for model in MODELS if type(config) is model.Config)
