"""Masked language modelling and sentence-order prediction (Lan et al. 2019, section 3.1).

The sentences of a pair are neighbours, in their order or swapped. Head and loss are those of next-sentence
prediction.
"""

from __future__ import annotations

from typing import Any

import jax

from bert_jax.config import MlmSopConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.objectives import mlm, mlm_nsp
from bert_jax.objectives.objective import Metric, Sums
from bert_jax.ops.attention.kernel import Kernels
from data_pipeline.config import DataConfig

Config = MlmSopConfig
INPUT_FORMATS: tuple[str, ...] = ("sentence_order",)
REDUCTION = mlm_nsp.REDUCTION
PREDICTS_TOKENS = mlm_nsp.PREDICTS_TOKENS
HUGGINGFACE_SUFFIX = mlm_nsp.HUGGINGFACE_SUFFIX

init = mlm_nsp.init
flops = mlm_nsp.flops
kept_bytes = mlm_nsp.kept_bytes


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return mlm_nsp.refuses_pairs(settings, encoder, data, input_formats=INPUT_FORMATS)


def metrics(settings: Any) -> tuple[Metric, ...]:
    return mlm_nsp.pair_metrics("sop")


def sums(
    settings: Any,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> Sums:
    """mlm_loss, mlm_accuracy, sop_loss and sop_accuracy; losses in nats."""
    return mlm_nsp.pair_sums("sop", head, encoder, batch, kernels=kernels, dropout_keys=dropout_keys)


def weights(batch: Batch) -> dict[str, jax.Array]:
    return mlm.weights(batch) | {"sop_loss": batch["nsp_weights"].sum()}
