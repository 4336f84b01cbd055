"""Masked language modelling and next-sentence prediction (Devlin et al. 2018, section 3.1).

Shapes in names: B rows, S row length, P packed sequences a row, D hidden.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
from flax import nnx

from bert_jax.config import EncoderConfig, MlmNspConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.models.layers import gather
from bert_jax.objectives import mlm
from bert_jax.objectives.objective import Metric, RowShape, Sums, pairs
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.cross_entropy import cross_entropy
from data_pipeline.config import DataConfig

Config = MlmNspConfig
INPUT_FORMATS: tuple[str, ...] = ("next_sentence",)
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = True
HUGGINGFACE_SUFFIX = "ForPreTraining"


class PairHead(nnx.Module):
    """A masked-LM head, and two logits of the pooled [CLS] of each sentence pair."""

    def __init__(self, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs):
        assert encoder.pooler is not None
        assert encoder.next_sentence_classifier is not None
        self.mlm = encoder.masked_lm_head(model, rngs=rngs)
        self.pooler = encoder.pooler(model, rngs=rngs)
        self.nsp = encoder.next_sentence_classifier(model, rngs=rngs)


def metrics(settings: Any) -> tuple[Metric, ...]:
    return pair_metrics("nsp")


def pair_metrics(name: str) -> tuple[Metric, ...]:
    """The metrics of masked tokens and of pairs whose label is called `name`."""
    return (
        Metric("loss", "Loss", higher_is_better=False),
        Metric("mlm_loss", "Loss of masked tokens", higher_is_better=False, baseline="unigram_loss"),
        Metric(f"{name}_loss", "Loss of sentence pairs", higher_is_better=False),
        Metric("mlm_accuracy", "Accuracy on masked tokens"),
        Metric(f"{name}_accuracy", "Accuracy on sentence pairs", baseline="majority_nsp_accuracy"),
    )


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return refuses_pairs(settings, encoder, data, input_formats=INPUT_FORMATS)


def refuses_pairs(
    settings: Any, encoder: Encoder, data: DataConfig | None, *, input_formats: tuple[str, ...]
) -> str | None:
    """`refuses` of an objective whose pairs are those of `input_formats`."""
    kind = encoder.HUGGINGFACE.model_type
    if encoder.pooler is None or encoder.next_sentence_classifier is None:
        return f"{kind} has no next-sentence head: use data.input_format full_sentences or documents"
    if data is not None and data.input_format not in input_formats:
        return (
            f"objective {settings.kind} wants the sentence pairs of data.input_format "
            f"{' or '.join(input_formats)}, not {data.input_format}: leave objective out, or prepare others"
        )
    return None


def init(settings: Any, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> PairHead:
    return PairHead(encoder, model, rngs=rngs)


def sums(
    settings: Any,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> Sums:
    """mlm_loss, mlm_accuracy, nsp_loss and nsp_accuracy; losses in nats."""
    return pair_sums("nsp", head, encoder, batch, kernels=kernels, dropout_keys=dropout_keys)


def pair_sums(
    name: str,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None,
) -> Sums:
    """`sums` of an objective whose label of a pair is called `name`."""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    inputs = mlm.decoder_inputs(head, encoder, hidden_BxSxD, batch["mlm_positions"])
    logits_BxPx2 = head.nsp(head.pooler(gather(hidden_BxSxD, batch["cls_positions"])))
    weights = batch["nsp_weights"].ravel()
    loss, hits = cross_entropy(logits_BxPx2.reshape(-1, 2), batch["nsp_labels"].ravel(), weights)
    return mlm.token_sums(inputs, batch) | pairs(name, loss, hits, weights.sum())


def weights(batch: Batch) -> dict[str, jax.Array]:
    return mlm.weights(batch) | {"nsp_loss": batch["nsp_weights"].sum()}


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    D = model.hidden_size
    return mlm.flops(settings, model, rows) + rows.max_sequences * 2 * (D * D + 2 * D)


kept_bytes = mlm.kept_bytes
