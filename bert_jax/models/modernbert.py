"""ModernBERT (Warner et al. 2024, arXiv 2412.13663) as Flax NNX modules: encoder, cost, heads, names.

Pre-norm layers without biases, rotary positions, gated linear units. Every n-th layer sees all of a sequence,
from the first one on; the others see a window. Reference implementation:
transformers/models/modernbert/modeling_modernbert.py.

Shapes in names: B rows, S row length, D hidden, H heads, E head_dim, F intermediate, V padded vocabulary,
C labels, L layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModernBertConfig
from bert_jax.models.encoder import Batch, HuggingFace, LayerStates, max_segments
from bert_jax.models.layers import Dense, Depth, FusedDense, LayerNorm, fold_in, param
from bert_jax.models.stack import keep_if, run_layers
from bert_jax.ops.activations import ACTIVATIONS
from bert_jax.ops.attention import PLAIN, attention, block_local
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.dropout import dropout
from bert_jax.ops.precision import precision
from bert_jax.ops.rotary import Rotation, rotate, rotation
from bert_jax.parallel.sharding import constrain, sum_gradient
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError

Config = ModernBertConfig

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""The kinds of layers, as config.json has called them since Transformers 5."""


def layer_types(config: ModernBertConfig) -> list[str]:
    every = config.global_attn_every_n_layers
    return [LOCAL if layer % every else GLOBAL for layer in range(config.num_hidden_layers)]


def window(config: ModernBertConfig) -> int | None:
    return config.local_attention // 2 if LOCAL in layer_types(config) else None


# Modules


class Embeddings(nnx.Module):
    """Words, normalized."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        cutoff = config.initializer_cutoff_factor
        normal = jax.nn.initializers.truncated_normal(config.initializer_range, lower=-cutoff, upper=cutoff)
        self.word = param(
            normal(rngs.params(), (config.padded_vocab_size, config.hidden_size)),
            ("vocab", "embed"),
            huggingface="model.embeddings.tok_embeddings.weight",
            depth=0,
            decay=True,
        )
        self.norm = _norm(config, "model.embeddings.norm", depth=0)
        self.config = config

    def __call__(self, batch: Batch, *, dropout_keys: jax.Array | None) -> jax.Array:
        # An explanation gives embeddings that are no token's (analysis/attributions.py).
        words = batch["word_embeddings"] if "word_embeddings" in batch else self.word[...][batch["token_ids"]]
        x_BxSxD = self.norm(words).astype(self.config.dtype)
        x_BxSxD = _dropout(x_BxSxD, self.config.embedding_dropout, dropout_keys)
        return constrain(x_BxSxD, "batch", None, None)


class EncoderLayer(nnx.Module):
    """One layer, or several, stacked and called on one layer's slice."""

    def __init__(self, config: ModernBertConfig, *, depth: Depth, rngs: nnx.Rngs):
        D, F = config.hidden_size, config.intermediate_size
        name = "model.layers.{}" if isinstance(depth, tuple) else f"model.layers.{depth - 1}"
        how: dict[str, Any] = {"cutoff": config.initializer_cutoff_factor, "depth": depth, "rngs": rngs}
        inner, outer = config.initializer_range, _residual_stddev(config)

        def fused(parts: int, size: int, axis: str, tensor: str) -> FusedDense:
            axes, tensor = ("embed", axis), f"{name}.{tensor}"
            return FusedDense((D, size), axes, parts=parts, stddev=inner, huggingface=tensor, **how)

        def to_residual(size: int, axis: str, tensor: str) -> Dense:
            axes, tensor = (axis, "embed"), f"{name}.{tensor}"
            return Dense((size, D), axes, stddev=outer, huggingface=tensor, bias=False, **how)

        # The first layer follows the norm of the embeddings.
        self.attention_norm = None if depth == 1 else _norm(config, f"{name}.attn_norm", depth)
        self.query_key_value = fused(3, D, "heads", "attn.Wqkv")
        self.attention_output = to_residual(D, "heads", "attn.Wo")
        self.mlp_norm = _norm(config, f"{name}.mlp_norm", depth)
        self.input_and_gate = fused(2, F, "mlp", "mlp.Wi")
        self.output = to_residual(F, "mlp", "mlp.Wo")
        self.config = config

    def project(self, x_BxSxD: jax.Array, positions: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query, key and value of what enters the layer, [B, S, H, E] each."""
        config, fused_BxSx3xD = self.config, self.project_fused(x_BxSxD)
        by_head = (*fused_BxSx3xD.shape[:-1], config.num_attention_heads, config.head_dim)
        query, key, value = jnp.unstack(fused_BxSx3xD.reshape(by_head), axis=2)
        return rotate(query, positions), rotate(key, positions), value

    def project_fused(self, x_BxSxD: jax.Array) -> jax.Array:
        """The same before heads and rotation, [B, S, 3, D]."""
        normalized = x_BxSxD if self.attention_norm is None else self.attention_norm(x_BxSxD)
        return self.query_key_value(normalized)

    def __call__(
        self,
        x_BxSxD: jax.Array,
        *,
        positions: Rotation,
        segment_ids_BxS: jax.Array,
        max_segments: int,
        window: int | None,
        kernels: Kernels,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        config = self.config
        attention_keys, output_keys, mlp_keys = (fold_in(dropout_keys, index) for index in range(3))
        attended_BxSxHxE = attention(
            kernels.of(window),
            *self.project(x_BxSxD, positions),
            segment_ids_BxS=segment_ids_BxS,
            max_segments=max_segments,
            window=window,
            dropout_rate=config.attention_dropout,
            dropout_keys=attention_keys,
        )
        update_BxSxD = self.attention_output(attended_BxSxHxE.reshape(x_BxSxD.shape))
        x_BxSxD = x_BxSxD + _dropout(update_BxSxD, config.attention_output_dropout, output_keys)
        input_BxSxF, gate_BxSxF = jnp.unstack(self.input_and_gate(self.mlp_norm(x_BxSxD)), axis=2)
        gated_BxSxF = ACTIVATIONS[config.hidden_activation](input_BxSxF) * gate_BxSxF
        x_BxSxD = x_BxSxD + self.output(_dropout(gated_BxSxF, config.mlp_dropout, mlp_keys))
        return constrain(x_BxSxD, "batch", None, None)

    def attention_map(
        self, x_BxSxD: jax.Array, *, positions: Rotation, segment_ids_BxS: jax.Array, window: int | None
    ) -> jax.Array:
        """[H, S, S] float32 of the first row: softmax of plain logits (Vaswani et al. 2017, equation 1)."""
        with precision("float32"):
            projected = self.project(x_BxSxD.astype(jnp.float32), positions)
            query_SxHxE, key_SxHxE = projected[0][0], projected[1][0]
            logits_HxQxK = jnp.einsum("qhe,khe->hqk", query_SxHxE, key_SxHxE) * self.config.head_dim**-0.5
        segments_S, column_S = segment_ids_BxS[0], jnp.arange(segment_ids_BxS.shape[1])
        seen_SxS = segments_S[:, None] == segments_S[None, :]
        if window is not None:
            seen_SxS &= jnp.abs(column_S[:, None] - column_S[None, :]) <= window
        return jax.nn.softmax(jnp.where(seen_SxS[None], logits_HxQxK, -jnp.inf), axis=-1)


class ModernBert(nnx.Module):
    """Embeddings, the first layer, the others stacked, and a last norm; an `EncoderModule`."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        L = config.num_hidden_layers
        self.embeddings = Embeddings(config, rngs=rngs)
        self.first_layer = EncoderLayer(config, depth=1, rngs=rngs)
        self.layers = EncoderLayer(config, depth=tuple(range(2, L + 1)), rngs=rngs) if L > 1 else None
        self.norm = _norm(config, "model.final_norm", depth=L)
        self.config = config

    @property
    def word_embeddings(self) -> nnx.Param:
        return self.embeddings.word

    def encode(self, batch: Batch, *, kernels: Kernels, dropout_keys: jax.Array | None = None) -> jax.Array:
        with precision(self.config.dtype):
            return self.norm(self._run(batch, kernels, dropout_keys)[0][0])

    def encode_with_states(
        self, batch: Batch, *, layer: int, kernels: Kernels, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, LayerStates]:
        with precision(self.config.dtype):
            (x_BxSxD, states), _ = self._run(batch, kernels, dropout_keys, states_of=layer)
            hidden_BxSxD = self.norm(x_BxSxD)
        assert states is not None
        if layer == self.config.num_hidden_layers - 1:
            states = states._replace(hidden_BxSxD=hidden_BxSxD)
        return hidden_BxSxD, states

    def attention_maps(self, batch: Batch) -> jax.Array:
        with precision(self.config.dtype):
            return jnp.stack(self._run(batch, PLAIN, None, maps=True)[1])

    def _run(
        self,
        batch: Batch,
        kernels: Kernels,
        dropout_keys: jax.Array | None,
        *,
        maps: bool = False,
        states_of: int | None = None,
    ) -> tuple[tuple[jax.Array, LayerStates | None], list[Any]]:
        """What leaves the last layer; and, if asked for, the states of a layer, and the attention maps of the
        first row in each."""
        config, types = self.config, layer_types(self.config)
        thetas = {GLOBAL: config.global_rope_theta, LOCAL: config.local_rope_theta}
        positions = {
            kind: rotation(batch["position_ids"], theta=theta, head_dim=config.head_dim, dtype=config.dtype)
            for kind, theta in thetas.items()
        }

        def call(layer: EncoderLayer, carried: Any, number: Any, kind: str) -> tuple[Any, Any]:
            x_BxSxD, states = carried
            seen: dict[str, Any] = {
                "positions": positions[kind],
                "segment_ids_BxS": batch["segment_ids"],
                "window": config.local_attention // 2 if kind == LOCAL else None,
            }
            y_BxSxD = layer(
                x_BxSxD,
                **seen,
                max_segments=max_segments(batch),
                kernels=kernels,
                dropout_keys=fold_in(dropout_keys, number),
            )
            if states_of is not None:
                here = LayerStates(y_BxSxD, *jnp.unstack(layer.project_fused(x_BxSxD), axis=2))
                states = keep_if(number == states_of, here, states)
            return (y_BxSxD, states), layer.attention_map(x_BxSxD, **seen) if maps else None

        def first_layer(carried: Any, params: Any, index: Any, place: int) -> tuple[Any, Any]:
            return call(nnx.merge(first_definition, params), carried, 0, GLOBAL)

        def later_layer(carried: Any, params: Any, index: Any, place: int) -> tuple[Any, Any]:
            layer = nnx.merge(definition, sum_gradient(params))
            return call(layer, carried, index + 1, types[place + 1])

        how: dict[str, Any] = {"unroll": config.scan_unroll, "remat": config.remat}
        x_BxSxD = self.embeddings(batch, dropout_keys=fold_in(dropout_keys, config.num_hidden_layers))
        first_definition, params = nnx.split(self.first_layer)
        apart = jax.tree.map(lambda leaf: (leaf,), params)
        states = None if states_of is None else LayerStates(*[jnp.zeros_like(x_BxSxD)] * 4)
        carried, kept = run_layers(first_layer, (x_BxSxD, states), apart, **how)
        if self.layers is not None:
            definition, params = nnx.split(self.layers)
            carried, kept_later = run_layers(later_layer, carried, params, period=config.period, **how)
            kept += kept_later
        return carried, kept


def _norm(config: ModernBertConfig, name: str, depth: Depth) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.norm_eps, huggingface=name, depth=depth, bias=False)


def _residual_stddev(config: ModernBertConfig) -> float:
    """Standard deviation of the initial weights that add to the residual stream (Shoeybi et al. 2019)."""
    return config.initializer_range / math.sqrt(2 * config.num_hidden_layers)


def _dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    return x if keys is None else dropout(x, rate=rate, keys=keys)


def init(config: ModernBertConfig, *, rngs: nnx.Rngs) -> ModernBert:
    return ModernBert(config, rngs=rngs)


def refuses(config: ModernBertConfig, data: DataConfig) -> str | None:
    return None


def with_dropout(config: ModernBertConfig, rate: float) -> ModernBertConfig:
    return dataclasses.replace(
        config,
        embedding_dropout=rate,
        attention_dropout=rate,
        attention_output_dropout=rate,
        mlp_dropout=rate,
        classifier_dropout=rate,
    )


def attention_dropout(config: ModernBertConfig) -> float:
    return config.attention_dropout


# Cost


def flops(config: ModernBertConfig, *, sequence_length: int) -> float:
    D, F, S, L = config.hidden_size, config.intermediate_size, sequence_length, config.num_hidden_layers
    seen = {GLOBAL: S, LOCAL: min(S, config.local_attention + 1)}
    attention = sum(4 * S * seen[kind] * D for kind in layer_types(config))
    return L * S * 2 * (4 * D * D + 3 * D * F) + attention


def kept_bytes(config: ModernBertConfig, *, sequence_length: int, kernels: Kernels, tensor: int = 1) -> float:
    """As Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1, count them, without rematerialization: the
    operands of each product and both sides of each nonlinearity; dropout's masks a byte an element."""
    D, F, S, H = config.hidden_size, config.intermediate_size, sequence_length, config.num_attention_heads
    size = 2 if config.dtype == "bfloat16" else 4
    # Both norms keep their input and give a product its operand; then q, k, v, what is attended, and of the
    # gated unit both parts, the activation and its product with the gate.
    layer = (4 * D + (4 * D + 4 * F) / tensor) * size
    layer += D * (config.attention_output_dropout > 0) + F * (config.mlp_dropout > 0) / tensor
    probs = H / tensor * (2 * size + 1 if config.attention_dropout else size)
    total = 0.0
    for kind in layer_types(config):
        kernel = kernels.of(None if kind == GLOBAL else window(config))
        seen = min(S, 3 * config.local_attention // 2) if kernel is block_local else S
        total += S * (layer + (seen * probs if kernel.KEEPS_PROBABILITIES else 0))
    return total


# Heads


class PredictionHead(nnx.Module):
    """Dense, activation and norm, which all heads have: ModernBertPredictionHead. [..., D] -> [..., D]."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        D, depth = config.hidden_size, config.num_hidden_layers + 1
        self.dense = Dense(
            (D, D),
            ("embed", None),
            stddev=_residual_stddev(config),
            cutoff=config.initializer_cutoff_factor,
            huggingface="head.dense",
            depth=depth,
            bias=False,
            rngs=rngs,
        )
        self.norm = _norm(config, "head.norm", depth=depth)
        self.config = config

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.norm(ACTIVATIONS[self.config.classifier_activation](self.dense(hidden)))


class MaskedLMHead(nnx.Module):
    """What comes before the tied decoder, and its bias: ModernBertForMaskedLM."""

    def __init__(self, config: ModernBertConfig, *, rngs: nnx.Rngs):
        self.head = PredictionHead(config, rngs=rngs)
        depth, size = config.num_hidden_layers + 1, config.padded_vocab_size
        self.bias = param(jnp.zeros(size), ("vocab",), huggingface="decoder.bias", depth=depth, decay=False)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.head(hidden)


class TokenClassificationHead(nnx.Module):
    """ModernBertForTokenClassification: prediction head, dropout and a dense layer on every token."""

    def __init__(self, config: ModernBertConfig, *, num_labels: int, rngs: nnx.Rngs):
        self.head = PredictionHead(config, rngs=rngs)
        self.classifier = Dense(
            (config.hidden_size, num_labels),
            ("embed", "labels"),
            stddev=config.hidden_size**-0.5,
            cutoff=config.initializer_cutoff_factor,
            huggingface="classifier",
            depth=config.num_hidden_layers + 1,
            rngs=rngs,
        )
        self.config = config

    def __call__(self, hidden_BxSxD: jax.Array, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        keys = fold_in(dropout_keys, self.config.num_hidden_layers + 1)
        hidden_BxSxD = _dropout(self.head(hidden_BxSxD), self.config.classifier_dropout, keys)
        return self.classifier(hidden_BxSxD).astype(jnp.float32)


class SequenceClassificationHead(TokenClassificationHead):
    """ModernBertForSequenceClassification: the same on the first token, or on the mean of all tokens."""

    def __call__(  # type: ignore[override]
        self, hidden_BxSxD: jax.Array, segment_ids_BxS: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        pooled_Bx1xD = hidden_BxSxD[:, :1]
        if self.config.classifier_pooling == "mean":
            inside_BxSx1 = (segment_ids_BxS > 0)[:, :, None].astype(jnp.float32)
            total_Bx1xD = (hidden_BxSxD.astype(jnp.float32) * inside_BxSx1).sum(axis=1, keepdims=True)
            mean_Bx1xD = total_Bx1xD / jnp.maximum(inside_BxSx1.sum(axis=1, keepdims=True), 1)
            pooled_Bx1xD = mean_Bx1xD.astype(hidden_BxSxD.dtype)
        return super().__call__(pooled_Bx1xD, dropout_keys=dropout_keys)[:, 0]


def question_answering_head(config: ModernBertConfig, *, rngs: nnx.Rngs) -> TokenClassificationHead:
    """ModernBertForQuestionAnswering: two numbers for every token."""
    return TokenClassificationHead(config, num_labels=2, rngs=rngs)


masked_lm_head = MaskedLMHead
replaced_token_head = None
pooler = None
next_sentence_classifier = None
sequence_classification_head = SequenceClassificationHead
token_classification_head = TokenClassificationHead


# Hugging Face


def read_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the names of Transformers 4.48 to 4.57, which are ours too; 5 has others."""
    read = dict(fields)
    if (types := fields.get("layer_types")) is not None:
        read["global_attn_every_n_layers"] = _period(types, fields)
    for name, kind in ("global_rope_theta", GLOBAL), ("local_rope_theta", LOCAL):
        if "rope_theta" in (rope := _rope(fields, kind)):
            read[name] = rope["rope_theta"]
    if read.get("local_rope_theta", 0) is None:  # as Transformers 4.48 to 4.57 have it
        read["local_rope_theta"] = read.get("global_rope_theta", ModernBertConfig.global_rope_theta)
    if fields.get("initializer_cutoff_factor", 0) is None:
        read["initializer_cutoff_factor"] = 3.0
    # Transformers drops what attention adds at the same rate as the probabilities.
    read.setdefault("attention_output_dropout", fields.get("attention_dropout", 0.0))
    return read


PLAIN_ROPE = {"rope_type", "type", "rope_theta"}


def _rope(fields: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The rope_parameters of a kind of layers. Raises UserError if they are not those of plain rotations."""
    stated = fields.get("rope_parameters") or {}
    rope = stated.get(kind) or {} if isinstance(stated, dict) else None
    if not isinstance(rope, dict) or stated.keys() - {GLOBAL, LOCAL}:
        raise UserError(
            f"config.json has rope_parameters {stated!r}; known are some for {GLOBAL} and {LOCAL}"
        )
    scaling = fields.get("rope_scaling") or {}
    for where in rope, scaling if isinstance(scaling, dict) else {"rope_type": scaling}:
        if (rope_type := where.get("rope_type", where.get("type", "default"))) != "default":
            raise UserError(f"config.json has the rope type {rope_type!r}; known is 'default'")
        if further := {key for key, value in where.items() if value is not None} - PLAIN_ROPE:
            raise UserError(f"config.json has {min(further)} for rotary positions; known is rope_theta")
    return rope


def _period(types: Any, fields: Mapping[str, Any]) -> int:
    """Every how many layers one sees all of a sequence. Raises UserError if there is no such number."""
    layers = fields.get("num_hidden_layers")
    if not isinstance(types, list) or layers not in (None, len(types)):
        raise UserError(f"config.json has layer_types {types!r} for {layers} layers")
    for every in (fields.get("global_attn_every_n_layers"), *range(1, len(types) + 1)):
        if every and types == [LOCAL if layer % every else GLOBAL for layer in range(len(types))]:
            return every
    raise UserError(
        f"config.json has layer_types {types!r}; known are {GLOBAL} from the first layer on in regular "
        f"distances, and {LOCAL} between them"
    )


def written_fields(config: ModernBertConfig) -> dict[str, Any]:
    """What Transformers 5 calls otherwise, and writes itself; the older names stand beside it."""
    thetas = {GLOBAL: config.global_rope_theta, LOCAL: config.local_rope_theta}
    return {
        "layer_types": layer_types(config),
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
    }


_WITHOUT_BIASES = {
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
}

HUGGINGFACE = HuggingFace(
    model_type="modernbert",
    class_prefix="ModernBert",
    base_prefix="model.",
    fields=(
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "initializer_range",
        "initializer_cutoff_factor",
        "hidden_activation",
        "norm_eps",
        "global_attn_every_n_layers",
        "local_attention",
        "global_rope_theta",
        "local_rope_theta",
        "embedding_dropout",
        "attention_dropout",
        "attention_output_dropout",
        "mlp_dropout",
        "classifier_dropout",
        "classifier_pooling",
        "classifier_activation",
    ),
    constants=_WITHOUT_BIASES,
    token_ids={
        "pad_token_id": "pad",
        "cls_token_id": "cls",
        "sep_token_id": "sep",
        "bos_token_id": "cls",
        "eos_token_id": "sep",
    },
    required=_WITHOUT_BIASES,
    values={
        name: {"gelu_pytorch_tanh": "gelu_new"} for name in ("hidden_activation", "classifier_activation")
    },
    legacy_suffixes={},
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    unused=(),
    read_fields=read_fields,
    written_fields=written_fields,
)
