"""Masked language modelling alone (Liu et al. 2019): the tokens at masked positions, from their context.

Shapes in names: B rows, S row length, K predictions a row, D hidden (in the decoder the width of the word
embeddings), V padded vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import EncoderConfig, MlmConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.models.layers import gather
from bert_jax.objectives.objective import Metric, RowShape, Sums, pairs
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.cross_entropy import decode, decoded_cross_entropy
from data_pipeline.config import DataConfig

Config = MlmConfig
INPUT_FORMATS: tuple[str, ...] = ("full_sentences", "documents")
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = True
HUGGINGFACE_SUFFIX = "ForMaskedLM"


class MlmHead(nnx.Module):
    """The masked-LM head of the encoder's family."""

    def __init__(self, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs):
        self.mlm = encoder.masked_lm_head(model, rngs=rngs)


class DecoderInputs(NamedTuple):
    """The MLM logits, left factored, so that the loss need not hold [B, K, V] until the backward pass."""

    hidden_BxKxD: jax.Array
    """What the decoder multiplies, in the compute dtype."""
    decoder_VxD: jax.Array
    """float32: the word embeddings."""
    bias_V: jax.Array
    """float32; half the lowest float where the vocabulary is padded."""

    @property
    def logits_BxKxV(self) -> jax.Array:
        """float32; the columns that pad the vocabulary never win."""
        return decode(*self)


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (
        Metric("loss", "Loss", higher_is_better=False, baseline="unigram_loss"),
        Metric("mlm_accuracy", "Accuracy on masked tokens"),
    )


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return None


def init(settings: Any, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> MlmHead:
    return MlmHead(encoder, model, rngs=rngs)


def sums(
    settings: Any,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> Sums:
    """mlm_loss, in nats, and mlm_accuracy (Devlin et al. 2018, section 3.1)."""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    return token_sums(decoder_inputs(head, encoder, hidden_BxSxD, batch["mlm_positions"]), batch)


def decoder_inputs(
    head: Any, encoder: EncoderModule, hidden_BxSxD: jax.Array, positions_BxK: jax.Array
) -> DecoderInputs:
    """What the head says at these columns of the last hidden states."""
    config = encoder.config
    exists_V = jnp.arange(config.padded_vocab_size) < config.vocab_size
    return DecoderInputs(
        head.mlm(gather(hidden_BxSxD, positions_BxK)),
        encoder.word_embeddings[...],
        jnp.where(exists_V, head.mlm.bias[...], jnp.finfo(jnp.float32).min / 2),
    )


def token_sums(inputs: DecoderInputs, batch: Batch) -> Sums:
    """The MLM loss and accuracy: cross-entropy, in nats, and hits at the masked tokens."""
    hidden_BxKxD, decoder_VxD, bias_V = inputs
    weights = batch["mlm_weights"].ravel()
    loss, hits = decoded_cross_entropy(
        hidden_BxKxD.reshape(-1, hidden_BxKxD.shape[-1]),
        decoder_VxD,
        bias_V,
        batch["mlm_targets"].ravel(),
        weights,
    )
    return pairs("mlm", loss, hits, weights.sum())


def weights(batch: Batch) -> dict[str, jax.Array]:
    return {"mlm_loss": batch["mlm_weights"].sum()}


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    D, E = model.hidden_size, model.embedding_size
    return rows.max_predictions * 2 * (D * E + E * model.padded_vocab_size)


def kept_bytes(settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
    """The logits once, for the gradient of the loss."""
    return rows.max_predictions * model.padded_vocab_size / tensor * 4
