"""BERT (Devlin et al. 2018) as Flax NNX modules: a post-LN encoder, its cost, its heads, its names elsewhere.

Reference implementation: transformers/models/bert/modeling_bert.py. Its relatives (relatives.py) have these
modules under other names.

Shapes in names: B rows, S row length, N positions, D hidden, H heads, E head_dim, F intermediate, V padded
vocabulary, C labels, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import BertConfig, PostLNConfig
from bert_jax.models.encoder import Batch, HuggingFace, LayerStates, max_segments
from bert_jax.models.layers import Dense, LayerNorm, fold_in, param
from bert_jax.models.stack import keep_if, run_layers
from bert_jax.ops.activations import ACTIVATIONS
from bert_jax.ops.attention import attention, xla
from bert_jax.ops.attention.kernel import Kernel, Kernels
from bert_jax.ops.dropout import dropout
from bert_jax.ops.precision import precision
from bert_jax.parallel.sharding import constrain, sum_gradient
from data_pipeline.config import DataConfig

Config = BertConfig

HUGGINGFACE = HuggingFace(
    model_type="bert",
    class_prefix="Bert",
    base_prefix="bert.",
    fields=(
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "max_position_embeddings",
        "type_vocab_size",
        "initializer_range",
        "layer_norm_eps",
    ),
    constants={"position_embedding_type": "absolute", "tie_word_embeddings": True},
    token_ids={"pad_token_id": "pad"},
    required={"position_embedding_type": "absolute", "is_decoder": False},
    values={"hidden_act": {"gelu_pytorch_tanh": "gelu_new"}},
    # The published bert-base-uncased, and others of its time, still have these.
    legacy_suffixes={".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"},
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    # Older models for tokens and questions have a pooler, which they do not use; the published
    # bert-base-uncased calls itself BertForMaskedLM and has a next-sentence head.
    unused=(
        "bert.embeddings.position_ids",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    ),
)


class Names(NamedTuple):
    """What Transformers calls the parts of such an encoder."""

    base: str = "bert"
    layer: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    intermediate: str = "intermediate.dense"
    output: str = "output.dense"
    output_norm: str = "output.LayerNorm"


class Embeddings(nnx.Module):
    """Words, positions and, where there are any, token types, summed and normalized."""

    def __init__(self, config: PostLNConfig, *, names: Names, rngs: nnx.Rngs):
        normal = jax.nn.initializers.truncated_normal(config.initializer_range)

        def table(rows: int, axis: str | None, name: str) -> nnx.Param:
            return param(
                normal(rngs.params(), (rows, config.embedding_size)),
                (axis, "embed"),
                huggingface=f"{names.base}.embeddings.{name}_embeddings.weight",
                depth=0,
                decay=True,
            )

        self.word = table(config.padded_vocab_size, "vocab", "word")
        self.position = table(config.max_position_embeddings, None, "position")
        self.token_type = table(config.token_types, None, "token_type") if config.token_types else None
        self.norm = LayerNorm(
            config.embedding_size,
            eps=config.norm_eps,
            huggingface=f"{names.base}.embeddings.LayerNorm",
            depth=0,
        )
        self.config = config

    def __call__(self, batch: Batch, *, dropout_keys: jax.Array | None) -> jax.Array:
        # An explanation gives embeddings that are no token's (analysis/attributions.py).
        words = batch["word_embeddings"] if "word_embeddings" in batch else self.word[...][batch["token_ids"]]
        x_BxSxD = words + self.position[...][batch["position_ids"] + self.config.first_position]
        if self.token_type is not None:
            # A tokenizer may number the second text for a model that does not.
            types_BxS = jnp.minimum(batch["token_type_ids"], self.config.token_types - 1)
            # A product with one-hot rows: its gradient is a matrix product, that of a gather is a scatter.
            x_BxSxD = x_BxSxD + jax.nn.one_hot(types_BxS, self.config.token_types) @ self.token_type[...]
        x_BxSxD = self.norm(x_BxSxD).astype(self.config.dtype)
        if dropout_keys is not None:
            x_BxSxD = dropout(x_BxSxD, rate=self.config.hidden_dropout_prob, keys=dropout_keys)
        return constrain(x_BxSxD, "batch", None, None)


class EncoderLayers(nnx.Module):
    """All layers, stacked (models/stack.py); called with the parameters of one."""

    def __init__(self, config: PostLNConfig, *, names: Names, rngs: nnx.Rngs):
        D, F = config.hidden_size, config.intermediate_size
        depth = tuple(range(1, config.num_hidden_layers + 1))

        def dense(shape: tuple[int, int], axes: tuple[str, str], name: str) -> Dense:
            return Dense(
                shape,
                axes,
                stddev=config.initializer_range,
                huggingface=f"{names.base}.{names.layer}.{{}}.{name}",
                depth=depth,
                rngs=rngs,
            )

        def norm(name: str) -> LayerNorm:
            name = f"{names.base}.{names.layer}.{{}}.{name}"
            return LayerNorm(D, eps=config.norm_eps, huggingface=name, depth=depth)

        self.query = dense((D, D), ("embed", "heads"), names.query)
        self.key = dense((D, D), ("embed", "heads"), names.key)
        self.value = dense((D, D), ("embed", "heads"), names.value)
        self.attention_output = dense((D, D), ("heads", "embed"), names.attention_output)
        self.attention_norm = norm(names.attention_norm)
        self.intermediate = dense((D, F), ("embed", "mlp"), names.intermediate)
        self.output = dense((F, D), ("mlp", "embed"), names.output)
        self.output_norm = norm(names.output_norm)
        self.config = config

    @property
    def projections(self) -> tuple[Dense, Dense, Dense]:
        return self.query, self.key, self.value

    def by_head(self, x_BxSxD: jax.Array) -> jax.Array:
        """[..., D] -> [..., H, E]."""
        return x_BxSxD.reshape(*x_BxSxD.shape[:-1], self.config.num_attention_heads, self.config.head_dim)

    def __call__(
        self,
        x_BxSxD: jax.Array,
        *,
        segment_ids_BxS: jax.Array,
        max_segments: int,
        kernel: Kernel,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        config = self.config
        attention_keys, *residual_keys = (fold_in(dropout_keys, index) for index in range(3))

        def residual(x: jax.Array, update: jax.Array, keys: jax.Array | None) -> jax.Array:
            if keys is not None:
                update = dropout(update, rate=config.hidden_dropout_prob, keys=keys)
            return x + update

        attended_BxSxHxE = attention(
            kernel,
            *(self.by_head(dense(x_BxSxD)) for dense in self.projections),
            segment_ids_BxS=segment_ids_BxS,
            max_segments=max_segments,
            dropout_rate=config.attention_probs_dropout_prob,
            dropout_keys=attention_keys,
        )
        update_BxSxD = self.attention_output(attended_BxSxHxE.reshape(x_BxSxD.shape))
        x_BxSxD = self.attention_norm(residual(x_BxSxD, update_BxSxD, residual_keys[0]))
        update_BxSxD = self.output(ACTIVATIONS[config.hidden_act](self.intermediate(x_BxSxD)))
        x_BxSxD = self.output_norm(residual(x_BxSxD, update_BxSxD, residual_keys[1]))
        return constrain(x_BxSxD, "batch", None, None)

    def attention_map(self, x_SxD: jax.Array, segment_ids_S: jax.Array) -> jax.Array:
        """[H, S, S] float32: softmax of plain logits (Vaswani et al. 2017, equation 1)."""
        x_SxD = x_SxD.astype(jnp.float32)
        with precision(jnp.float32):
            query_SxHxE, key_SxHxE = self.by_head(self.query(x_SxD)), self.by_head(self.key(x_SxD))
            logits_HxQxK = jnp.einsum("qhe,khe->hqk", query_SxHxE, key_SxHxE)
        mask_1xQxK = (segment_ids_S[:, None] == segment_ids_S[None, :])[None]
        logits_HxQxK = jnp.where(mask_1xQxK, logits_HxQxK * self.config.head_dim**-0.5, -jnp.inf)
        return jax.nn.softmax(logits_HxQxK, axis=-1)


class Bert(nnx.Module):
    """Embeddings and encoder layers; an `EncoderModule`."""

    def __init__(self, config: PostLNConfig, *, names: Names, rngs: nnx.Rngs):
        D, E = config.hidden_size, config.embedding_size
        self.embeddings = Embeddings(config, names=names, rngs=rngs)
        self.projection = (
            None
            if E == D
            else Dense(
                (E, D),
                (None, "embed"),
                stddev=config.initializer_range,
                huggingface=f"{names.base}.embeddings_project",
                depth=0,
                rngs=rngs,
            )
        )
        self.layers = EncoderLayers(config, names=names, rngs=rngs)
        self.config = config

    @property
    def word_embeddings(self) -> nnx.Param:
        return self.embeddings.word

    def encode(self, batch: Batch, *, kernels: Kernels, dropout_keys: jax.Array | None = None) -> jax.Array:
        with precision(self.config.dtype):
            return self._run(batch, kernels.whole, dropout_keys)[0][0]

    def encode_with_states(
        self, batch: Batch, *, layer: int, kernels: Kernels, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, LayerStates]:
        with precision(self.config.dtype):
            (hidden_BxSxD, states), _ = self._run(batch, kernels.whole, dropout_keys, states_of=layer)
        assert states is not None
        return hidden_BxSxD, states

    def attention_maps(self, batch: Batch) -> jax.Array:
        with precision(self.config.dtype):
            return jnp.stack(self._run(batch, xla, None, maps=True)[1])

    def _run(
        self,
        batch: Batch,
        kernel: Kernel,
        dropout_keys: jax.Array | None,
        *,
        maps: bool = False,
        states_of: int | None = None,
    ) -> tuple[tuple[jax.Array, LayerStates | None], list[Any]]:
        """The last hidden states; and, if asked for, the states of a layer, and the attention maps of the
        first row in each."""
        config = self.config
        definition, params = nnx.split(self.layers)

        def layer(carried: Any, params: Any, index: Any, kind: int) -> tuple[Any, Any]:
            x_BxSxD, states = carried
            module = nnx.merge(definition, sum_gradient(params))
            y_BxSxD = module(
                x_BxSxD,
                segment_ids_BxS=batch["segment_ids"],
                max_segments=max_segments(batch),
                kernel=kernel,
                dropout_keys=fold_in(dropout_keys, index),
            )
            if states_of is not None:
                here = LayerStates(y_BxSxD, *(dense(x_BxSxD) for dense in module.projections))
                states = keep_if(index == states_of, here, states)
            map_HxSxS = module.attention_map(x_BxSxD[0], batch["segment_ids"][0]) if maps else None
            return (y_BxSxD, states), map_HxSxS

        x_BxSxD = self.embeddings(batch, dropout_keys=fold_in(dropout_keys, config.num_hidden_layers))
        if self.projection is not None:
            x_BxSxD = constrain(self.projection(x_BxSxD), "batch", None, None)
        states = None if states_of is None else LayerStates(*[jnp.zeros_like(x_BxSxD)] * 4)
        return run_layers(layer, (x_BxSxD, states), params, unroll=config.scan_unroll, remat=config.remat)


def init(config: BertConfig, *, rngs: nnx.Rngs) -> Bert:
    return Bert(config, names=Names(), rngs=rngs)


def refuses(config: BertConfig, data: DataConfig) -> str | None:
    if data.has_pairs and config.type_vocab_size < 2:
        return (
            f"model.type_vocab_size is {config.type_vocab_size}; sentence pairs (data.input_format "
            f"{data.input_format}) need 2"
        )
    return None


def with_dropout(config: PostLNConfig, rate: float) -> PostLNConfig:
    rates: dict[str, Any] = {
        field.name: rate for field in dataclasses.fields(config) if "dropout" in field.name
    }
    return dataclasses.replace(config, **rates)


def attention_dropout(config: PostLNConfig) -> float:
    return config.attention_probs_dropout_prob


def window(config: PostLNConfig) -> int | None:
    return None


# Cost


def flops(config: PostLNConfig, *, sequence_length: int) -> float:
    D, F, S, L = config.hidden_size, config.intermediate_size, sequence_length, config.num_hidden_layers
    projection = 0 if config.embedding_size == D else S * 2 * config.embedding_size * D
    return projection + L * S * (2 * (4 * D * D + 2 * D * F) + 4 * S * D)


def kept_bytes(config: PostLNConfig, *, sequence_length: int, kernels: Kernels, tensor: int = 1) -> float:
    """Korthikanti et al. 2022 (arXiv 2205.05198), equation 1, without rematerialization: the operands of each
    product, both sides of each nonlinearity, and dropout's masks, a byte an element."""
    D, F, S, H = config.hidden_size, config.intermediate_size, sequence_length, config.num_attention_heads
    size = 2 if config.dtype == "bfloat16" else 4
    hidden = (4 * D + (4 * D + 2 * F) / tensor) * size + (2 * D if config.hidden_dropout_prob else 0)
    probs = 0.0
    if kernels.whole.KEEPS_PROBABILITIES:
        probs = H * S / tensor * (2 * size + 1 if config.attention_probs_dropout_prob else size)
    return config.num_hidden_layers * S * (hidden + probs)


# Heads


def head_dense(config: PostLNConfig, outputs: int, axis: str | None, name: str, rngs: nnx.Rngs) -> Dense:
    """A layer of a head on the hidden states."""
    return Dense(
        (config.hidden_size, outputs),
        ("embed", axis),
        stddev=config.initializer_range,
        huggingface=name,
        depth=config.num_hidden_layers + 1,
        rngs=rngs,
    )


class MaskedLMHead(nnx.Module):
    """Dense, activation and LayerNorm before the tied decoder: BertLMPredictionHead.

    Args:
      dense, norm, bias: what Transformers calls its parts.
      activation: None: the encoder's.
    """

    def __init__(
        self,
        config: PostLNConfig,
        *,
        dense: str = "cls.predictions.transform.dense",
        norm: str = "cls.predictions.transform.LayerNorm",
        bias: str = "cls.predictions.bias",
        activation: str | None = None,
        rngs: nnx.Rngs,
    ):
        size, depth = config.embedding_size, config.num_hidden_layers + 1
        self.transform = head_dense(config, size, None, dense, rngs)
        self.norm = LayerNorm(size, eps=config.norm_eps, huggingface=norm, depth=depth)
        self.bias = param(
            jnp.zeros(config.padded_vocab_size), ("vocab",), huggingface=bias, depth=depth, decay=False
        )
        self.activation = activation or config.hidden_act

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.norm(ACTIVATIONS[self.activation](self.transform(hidden)))


class Pooler(nnx.Module):
    """tanh of a dense layer: BertPooler. [..., D] of [CLS] -> [..., D]."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.dense = head_dense(config, config.hidden_size, None, "bert.pooler.dense", rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return jnp.tanh(self.dense(hidden))


class NextSentenceClassifier(nnx.Module):
    """Two logits of a pooled [CLS]: [..., D] -> [..., 2] float32."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.dense = head_dense(config, 2, None, "cls.seq_relationship", rngs)

    def __call__(self, pooled: jax.Array) -> jax.Array:
        return self.dense(pooled).astype(jnp.float32)


class SequenceClassificationHead(nnx.Module):
    """BertForSequenceClassification: dropout and a dense layer on the pooled first token."""

    def __init__(self, config: BertConfig, *, num_labels: int, rngs: nnx.Rngs):
        self.pooler = Pooler(config, rngs=rngs)
        self.classifier = head_dense(config, num_labels, "labels", "classifier", rngs)
        self.config = config

    def __call__(
        self, hidden_BxSxD: jax.Array, segment_ids_BxS: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        pooled_Bx1xD = self.pooler(hidden_BxSxD[:, :1])
        pooled_Bx1xD = head_dropout(self.config, pooled_Bx1xD, self.config.hidden_dropout_prob, dropout_keys)
        return self.classifier(pooled_Bx1xD).astype(jnp.float32)[:, 0]


class TokenHead(nnx.Module):
    """Dropout and a dense layer on every token: [B, S, D] -> [B, S, C] float32 logits."""

    def __init__(self, config: PostLNConfig, *, num_labels: int, name: str, rate: float, rngs: nnx.Rngs):
        self.classifier = head_dense(config, num_labels, "labels", name, rngs)
        self.config, self.rate = config, rate

    def __call__(self, hidden_BxSxD: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        hidden_BxSxD = head_dropout(self.config, hidden_BxSxD, self.rate, dropout_keys)
        return self.classifier(hidden_BxSxD).astype(jnp.float32)


def token_classification_head(config: PostLNConfig, *, num_labels: int, rngs: nnx.Rngs) -> TokenHead:
    """BertForTokenClassification."""
    rate = config.hidden_dropout_prob
    return TokenHead(config, num_labels=num_labels, name="classifier", rate=rate, rngs=rngs)


def question_answering_head(config: PostLNConfig, *, rngs: nnx.Rngs) -> TokenHead:
    """BertForQuestionAnswering: it has no dropout."""
    return TokenHead(config, num_labels=2, name="qa_outputs", rate=0.0, rngs=rngs)


def head_dropout(
    config: PostLNConfig, x: jax.Array, rate: float, keys: jax.Array | None, *, index: int = 0
) -> jax.Array:
    """The dropout of a head, the `index`-th one, with keys that no layer has."""
    keys = fold_in(keys, config.num_hidden_layers + 1 + index)
    return x if keys is None else dropout(x, rate=rate, keys=keys)


masked_lm_head = MaskedLMHead
replaced_token_head = None
pooler = Pooler
next_sentence_classifier = NextSentenceClassifier
sequence_classification_head = SequenceClassificationHead
