"""RetroMAE (Xiao et al. 2022, arXiv 2205.12035): masked tokens, and a first token that holds the whole text.

Beside the masked-LM head a decoder of one layer rebuilds every token from the encoder's last hidden state of
the first token, [CLS], and from a sample of the other tokens, another one for each (section 3.3, enhanced
decoding). It is too weak to do so alone, so that state becomes an embedding of the text. Start embeddings
from it with task.pooling cls.

The decoder has positions of its own, so that any encoder may have it, and no dropout.
Reference implementation: examples/pretrain/retromae_pretrain/enhancedDecoder.py in staoxiao/RetroMAE.

Shapes in names: B rows, S row length, P packed sequences, D hidden, H heads, E head_dim.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import EncoderConfig, RetroMaeConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.models.layers import Dense, LayerNorm, fold_in, gather, param
from bert_jax.objectives import mlm, rtd
from bert_jax.objectives.objective import Metric, RowShape, Sums, pairs
from bert_jax.ops.activations import gelu
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.attention.xla import softmax
from bert_jax.ops.cross_entropy import decoded_cross_entropy
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError

Config = RetroMaeConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = True
HUGGINGFACE_SUFFIX = mlm.HUGGINGFACE_SUFFIX

SEEN = (1 << 20) + 2
"""Folded into the key of a row: a number that no layer has."""


class Decoder(nnx.Module):
    """A layer of attention and one of BERT's feed-forward layers, post-LN. Its queries are not its keys."""

    def __init__(self, model: EncoderConfig, *, rngs: nnx.Rngs):
        D, F, depth = model.hidden_size, model.intermediate_size, model.num_hidden_layers + 1

        def dense(shape: tuple[int, int], axes: tuple[str, str], name: str) -> Dense:
            return Dense(
                shape,
                axes,
                stddev=model.initializer_range,
                huggingface=f"retromae.{name}",
                depth=depth,
                rngs=rngs,
            )

        self.query = dense((D, D), ("embed", "heads"), "query")
        self.key = dense((D, D), ("embed", "heads"), "key")
        self.value = dense((D, D), ("embed", "heads"), "value")
        self.attention_output = dense((D, D), ("heads", "embed"), "attention_output")
        self.attention_norm = LayerNorm(D, eps=1e-12, huggingface="retromae.attention_norm", depth=depth)
        self.intermediate = dense((D, F), ("embed", "mlp"), "intermediate")
        self.output = dense((F, D), ("mlp", "embed"), "output")
        self.output_norm = LayerNorm(D, eps=1e-12, huggingface="retromae.output_norm", depth=depth)
        normal = jax.nn.initializers.truncated_normal(model.initializer_range)
        self.positions = param(
            normal(rngs.params(), (model.max_position_embeddings, D)),
            (None, "embed"),
            huggingface="retromae.positions",
            depth=depth,
            decay=True,
        )
        self.heads, self.head_dim = model.num_attention_heads, model.head_dim

    def __call__(
        self,
        first_BxSxD: jax.Array,
        words_BxSxD: jax.Array,
        *,
        positions_BxS: jax.Array,
        sees_BxSxS: jax.Array,
    ) -> jax.Array:
        """[B, S, D] of what each token is rebuilt from.

        Args:
          first_BxSxD: the last hidden state of the first token of each token's sequence.
          words_BxSxD: the embeddings of the tokens themselves, those of first tokens their hidden states.
          positions_BxS: their places in their sequences.
          sees_BxSxS: which tokens (last axis) each of them sees.
        """
        places_BxSxD = self.positions[...][positions_BxS].astype(first_BxSxD.dtype)
        query_BxSxD = first_BxSxD + places_BxSxD
        is_first_BxSx1 = (positions_BxS == 0)[:, :, None]
        keys_BxSxD = jnp.where(is_first_BxSx1, words_BxSxD, words_BxSxD + places_BxSxD)

        def by_head(x_BxSxD: jax.Array) -> jax.Array:
            return x_BxSxD.reshape(*x_BxSxD.shape[:2], self.heads, self.head_dim)

        logits_BxHxSxS = jnp.einsum(
            "bqhe,bkhe->bhqk",
            by_head(self.query(query_BxSxD)) * self.head_dim**-0.5,
            by_head(self.key(keys_BxSxD)),
            preferred_element_type=jnp.float32,
        )
        logits_BxHxSxS = jnp.where(sees_BxSxS[:, None], logits_BxHxSxS, jnp.finfo(jnp.float32).min)
        probs_BxHxSxS = softmax(logits_BxHxSxS, first_BxSxD.dtype)
        attended_BxSxHxE = jnp.einsum("bhqk,bkhe->bqhe", probs_BxHxSxS, by_head(self.value(keys_BxSxD)))
        update_BxSxD = self.attention_output(attended_BxSxHxE.reshape(query_BxSxD.shape))
        x_BxSxD = self.attention_norm(query_BxSxD + update_BxSxD)
        return self.output_norm(x_BxSxD + self.output(gelu(self.intermediate(x_BxSxD))))


class RetroMaeHead(nnx.Module):
    """A masked-LM head, which the decoder's states go through too, and the decoder."""

    def __init__(self, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs):
        if model.embedding_size != model.hidden_size:
            raise UserError(
                f"objective retromae rebuilds word embeddings: model.embedding_size {model.embedding_size} "
                f"must be model.hidden_size {model.hidden_size}"
            )
        self.mlm = encoder.masked_lm_head(model, rngs=rngs)
        self.decoder = Decoder(model, rngs=rngs)


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (
        Metric("loss", "Loss", higher_is_better=False),
        Metric("mlm_loss", "Loss of masked tokens", higher_is_better=False, baseline="unigram_loss"),
        Metric("decoder_loss", "Loss of the tokens that are rebuilt", higher_is_better=False),
        Metric("mlm_accuracy", "Accuracy on masked tokens"),
        Metric("decoder_accuracy", "Accuracy on the tokens that are rebuilt"),
    )


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return None


def init(settings: Any, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> RetroMaeHead:
    return RetroMaeHead(encoder, model, rngs=rngs)


def sums(
    settings: RetroMaeConfig,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> Sums:
    """mlm_loss and mlm_accuracy; decoder_loss and decoder_accuracy of all tokens but the first ones."""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    inputs = mlm.decoder_inputs(head, encoder, hidden_BxSxD, batch["mlm_positions"])
    keys = rtd.content_keys(batch) if dropout_keys is None else fold_in(dropout_keys, SEEN)
    assert keys is not None
    ids_BxS, segment_ids_BxS = original_ids(batch), batch["segment_ids"]
    firsts_BxPxD = gather(hidden_BxSxD, batch["cls_positions"])
    first_BxSxD = gather(firsts_BxPxD, jnp.maximum(segment_ids_BxS - 1, 0))
    words_BxSxD = encoder.word_embeddings[...][ids_BxS].astype(hidden_BxSxD.dtype)
    is_first_BxS = batch["position_ids"] == 0
    rebuilt_BxSxD = head.decoder(
        first_BxSxD,
        jnp.where(is_first_BxS[:, :, None], first_BxSxD, words_BxSxD),
        positions_BxS=batch["position_ids"],
        sees_BxSxS=seen(segment_ids_BxS, is_first_BxS, keys, rate=settings.decoder_rate),
    )
    all_1xS = jnp.arange(ids_BxS.shape[1])[None]
    states = mlm.decoder_inputs(head, encoder, rebuilt_BxSxD, jnp.broadcast_to(all_1xS, ids_BxS.shape))
    weights = _is_rebuilt(batch).ravel()
    loss, hits = decoded_cross_entropy(
        states.hidden_BxKxD.reshape(-1, states.hidden_BxKxD.shape[-1]),
        states.decoder_VxD,
        states.bias_V,
        ids_BxS.ravel(),
        weights,
    )
    return mlm.token_sums(inputs, batch) | pairs("decoder", loss, hits, weights.sum())


def original_ids(batch: Batch) -> jax.Array:
    """The tokens before they were masked, [B, S]."""
    ids_BxS, positions_BxK = batch["token_ids"], batch["mlm_positions"]
    there_BxK = jnp.take_along_axis(ids_BxS, positions_BxK, axis=1)
    values_BxK = jnp.where(batch["mlm_weights"] > 0, batch["mlm_targets"], there_BxK)
    return jax.vmap(lambda ids_S, places_K, values_K: ids_S.at[places_K].set(values_K))(
        ids_BxS, positions_BxK, values_BxK
    )


def seen(segment_ids_BxS: jax.Array, is_first_BxS: jax.Array, keys_B: jax.Array, *, rate: float) -> jax.Array:
    """Which tokens (last axis) each token sees, [B, S, S] bool: the first one of its sequence, and each other
    one but itself with the probability 1 - rate."""
    S = segment_ids_BxS.shape[1]
    # Bits of the generator "rbg" would depend on how rows are cut.
    keys_B = jax.random.wrap_key_data(jax.random.key_data(keys_B)[:, :2], impl="threefry2x32")
    kept_BxSxS = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (S, S)))(keys_B)
    same_BxSxS = segment_ids_BxS[:, :, None] == segment_ids_BxS[:, None]
    return same_BxSxS & ~jnp.eye(S, dtype=bool)[None] & (kept_BxSxS | is_first_BxS[:, None])


def _is_rebuilt(batch: Batch) -> jax.Array:
    return ((batch["segment_ids"] > 0) & (batch["position_ids"] > 0)).astype(jnp.float32)


def weights(batch: Batch) -> dict[str, jax.Array]:
    return mlm.weights(batch) | {"decoder_loss": _is_rebuilt(batch).sum()}


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    D, F, S = model.hidden_size, model.intermediate_size, rows.sequence_length
    layer = S * (2 * (4 * D * D + 2 * D * F) + 4 * S * D)
    words = mlm.flops(settings, model, rows._replace(max_predictions=S))
    return mlm.flops(settings, model, rows) + layer + words


def kept_bytes(settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
    """The logits of masked and of all tokens once, and the decoder's layer as one of BERT's."""
    S, size = rows.sequence_length, 2 if model.dtype == "bfloat16" else 4
    layer = (
        S * (4 * model.hidden_size + (4 * model.hidden_size + 2 * model.intermediate_size) / tensor) * size
    )
    layer += S * S * model.num_attention_heads / tensor * 2 * size
    return layer + mlm.kept_bytes(
        settings, model, rows._replace(max_predictions=rows.max_predictions + S), tensor=tensor
    )
