"""BERT (Devlin et al. 2018) as Flax NNX modules: post-LN encoder, heads for pretraining and for tasks.

A parameter's shape, logical axes and initializer are declared once, where it is made. Encoder layers are
stacked on a leading `layers` axis and run with `jax.lax.scan`. Outside of this file a model is a `GraphDef`
and a nested dict of arrays.

Shapes in names: B rows, S row length, K predictions a row, P packed sequences a row, D hidden, H heads,
E head_dim, F intermediate, V padded vocabulary, C outputs of a task's head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ModelConfig
from bert_jax.ops.activations import activation
from bert_jax.ops.attention import attention
from bert_jax.ops.dropout import dropout
from bert_jax.ops.layer_norm import layer_norm
from bert_jax.parallel.sharding import constrain

Params = dict[str, Any]
Batch = dict[str, jax.Array]


class Outputs(NamedTuple):
    """What the heads say. Of the words the last step is left open: a loss need not keep all logits."""

    mlm_BxKxD: jax.Array
    """What the decoder multiplies, in the compute dtype."""
    decoder_VxD: jax.Array
    """float32: the word embeddings."""
    decoder_bias_V: jax.Array
    """float32; half the lowest float where the vocabulary is padded."""
    nsp_BxPx2: jax.Array
    """float32 logits; index 1 is "random next"."""

    @property
    def mlm_BxKxV(self) -> jax.Array:
        """float32 logits; the columns that pad the vocabulary never win."""
        return decode(self.mlm_BxKxD, self.decoder_VxD, self.decoder_bias_V)


def decode(x: jax.Array, decoder_VxD: jax.Array, bias_V: jax.Array) -> jax.Array:
    """[..., D] -> [..., V] float32 logits: a product in the dtype of x, summed in float32."""
    with precision(x.dtype):
        logits = jnp.einsum(
            "...d,vd->...v", x, decoder_VxD.astype(x.dtype), preferred_element_type=jnp.float32
        )
    return logits + _last_axis(bias_V, logits)


@functools.cache
def definition(config: ModelConfig) -> tuple[nnx.GraphDef, Params]:
    """The model's structure, and the logical axes of each parameter: a tuple of names, one a dimension."""
    model = nnx.eval_shape(lambda: _module(config)(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    axes = jax.tree.map(
        lambda variable: variable.get_metadata("logical_axes"),
        state,
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )
    return graphdef, nnx.to_pure_dict(axes)


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Initial parameters, float32: truncated normal for matrices, zeros and ones for the rest."""
    return nnx.to_pure_dict(nnx.split(_module(config)(config, rngs=nnx.Rngs(key)))[1])


def apply(
    config: ModelConfig, params: Params, batch: Batch, *, dropout_keys: jax.Array | None = None
) -> Outputs:
    """Outputs at the masked positions and at every [CLS]; see `data_pipeline.batch` for the batch.

    Dropout is on if there are keys, one for each row.
    """
    assert config.head == "pretraining"
    with precision(config.dtype):
        return nnx.merge(definition(config)[0], params)(batch, dropout_keys=dropout_keys)


def task_logits(
    config: ModelConfig, params: Params, batch: Batch, *, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """What a fine-tuned head says, float32: [B, C] of a text, or [B, S, C] of each token.

    Of qa, index 0 says whether the answer begins at a token, and 1 whether it ends there. See
    `bert_jax.tasks.features` for the batch.
    """
    assert config.head != "pretraining"
    with precision(config.dtype):
        return nnx.merge(definition(config)[0], params)(batch, dropout_keys=dropout_keys)


def encode(
    config: ModelConfig, params: Params, batch: Batch, *, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """Hidden states of the last layer, [B, S, D] in the compute dtype."""
    with precision(config.dtype):
        return nnx.merge(definition(config)[0], params).encode(batch, dropout_keys=dropout_keys)


def hidden_states(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    """What enters each layer, and what leaves the last one: [L + 1, B, S, D] in the compute dtype."""
    with precision(config.dtype):
        return nnx.merge(definition(config)[0], params).hidden_states(batch)


def precision(dtype: Any) -> AbstractContextManager[None]:
    """float32 means float32: TPUs and recent GPUs would multiply it in fewer bits by default."""
    return jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default")


class Dense(nnx.Module):
    """x @ kernel + bias in the dtype of x; `layers` adds a leading axis to both."""

    def __init__(
        self,
        config: ModelConfig,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        *,
        rngs: nnx.Rngs,
        stack: tuple[int, ...] = (),
    ):
        normal = jax.nn.initializers.truncated_normal(config.initializer_range)
        layers = ("layers",) * len(stack)
        self.kernel = nnx.Param(normal(rngs.params(), (*stack, *shape)), logical_axes=(*layers, *axes))
        self.bias = nnx.Param(jnp.zeros((*stack, shape[1])), logical_axes=(*layers, axes[1]))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y + _last_axis(self.bias[...].astype(x.dtype), y)


class LayerNorm(nnx.Module):
    def __init__(self, config: ModelConfig, *, stack: tuple[int, ...] = ()):
        axes = ("layers",) * len(stack) + ("embed",)
        self.scale = nnx.Param(jnp.ones((*stack, config.hidden_size)), logical_axes=axes)
        self.bias = nnx.Param(jnp.zeros((*stack, config.hidden_size)), logical_axes=axes)
        self.eps = config.layer_norm_eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class Embeddings(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        normal = jax.nn.initializers.truncated_normal(config.initializer_range)
        D = config.hidden_size

        def table(rows: int, axis: str | None) -> nnx.Param:
            return nnx.Param(normal(rngs.params(), (rows, D)), logical_axes=(axis, "embed"))

        self.word = table(config.padded_vocab_size, "vocab")
        self.position = table(config.max_position_embeddings, None)
        self.token_type = table(config.type_vocab_size, None)
        self.norm = LayerNorm(config)
        self.config = config

    def __call__(self, batch: Batch, *, dropout_keys: jax.Array | None) -> jax.Array:
        # A product with one-hot rows: its gradient is a matrix product, where that of a gather is a scatter.
        types_BxSxT = jax.nn.one_hot(batch["token_type_ids"], self.config.type_vocab_size)
        # An explanation gives embeddings that are no token's (attributions.py).
        words = batch["word_embeddings"] if "word_embeddings" in batch else self.word[...][batch["token_ids"]]
        x_BxSxD = words + self.position[...][batch["position_ids"]] + types_BxSxT @ self.token_type[...]
        x_BxSxD = self.norm(x_BxSxD).astype(self.config.dtype)
        if dropout_keys is not None:
            x_BxSxD = dropout(x_BxSxD, rate=self.config.hidden_dropout_prob, keys=dropout_keys)
        return constrain(x_BxSxD, "batch", None, None)


class EncoderLayers(nnx.Module):
    """All layers, stacked; called on one layer's slice."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, F = config.hidden_size, config.intermediate_size
        stack = (config.num_hidden_layers,)
        self.query = Dense(config, (D, D), ("embed", "heads"), rngs=rngs, stack=stack)
        self.key = Dense(config, (D, D), ("embed", "heads"), rngs=rngs, stack=stack)
        self.value = Dense(config, (D, D), ("embed", "heads"), rngs=rngs, stack=stack)
        self.attention_output = Dense(config, (D, D), ("heads", "embed"), rngs=rngs, stack=stack)
        self.attention_norm = LayerNorm(config, stack=stack)
        self.intermediate = Dense(config, (D, F), ("embed", "mlp"), rngs=rngs, stack=stack)
        self.output = Dense(config, (F, D), ("mlp", "embed"), rngs=rngs, stack=stack)
        self.output_norm = LayerNorm(config, stack=stack)
        self.config = config

    def __call__(
        self, x_BxSxD: jax.Array, *, segment_ids_BxS: jax.Array, dropout_keys: jax.Array | None
    ) -> jax.Array:
        config = self.config
        B, S, D = x_BxSxD.shape
        attention_keys, *residual_keys = (_fold_in(dropout_keys, index) for index in range(3))

        def residual(x: jax.Array, update: jax.Array, keys: jax.Array | None) -> jax.Array:
            if keys is not None:
                update = dropout(update, rate=config.hidden_dropout_prob, keys=keys)
            return x + update

        by_head = (B, S, config.num_attention_heads, config.head_dim)
        attended_BxSxHxE = attention(
            self.query(x_BxSxD).reshape(by_head),
            self.key(x_BxSxD).reshape(by_head),
            self.value(x_BxSxD).reshape(by_head),
            segment_ids_BxS=segment_ids_BxS,
            dropout_rate=config.attention_probs_dropout_prob,
            dropout_keys=attention_keys,
            implementation=config.attention,
        )
        update_BxSxD = self.attention_output(attended_BxSxHxE.reshape(B, S, D))
        x_BxSxD = self.attention_norm(residual(x_BxSxD, update_BxSxD, residual_keys[0]))
        update_BxSxD = self.output(activation(config)(self.intermediate(x_BxSxD)))
        x_BxSxD = self.output_norm(residual(x_BxSxD, update_BxSxD, residual_keys[1]))
        return constrain(x_BxSxD, "batch", None, None)


class Bert(nnx.Module):
    """Embeddings and encoder."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = EncoderLayers(config, rngs=rngs)
        self.config = config

    def encode(self, batch: Batch, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        return self._scan(batch, dropout_keys, keep=False)[0]

    def hidden_states(self, batch: Batch) -> jax.Array:
        last_BxSxD, inputs_LxBxSxD = self._scan(batch, None, keep=True)
        assert inputs_LxBxSxD is not None
        return jnp.concatenate([inputs_LxBxSxD, last_BxSxD[None]])

    def _scan(
        self, batch: Batch, dropout_keys: jax.Array | None, *, keep: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """The last hidden state, and what entered each layer if that is to be kept."""
        config = self.config

        layer_definition, layers = nnx.split(self.layers)

        def layer(x_BxSxD: jax.Array, inputs: tuple[Any, jax.Array]) -> tuple[jax.Array, jax.Array | None]:
            params, index = inputs
            y_BxSxD = nnx.merge(layer_definition, params)(
                x_BxSxD, segment_ids_BxS=batch["segment_ids"], dropout_keys=_fold_in(dropout_keys, index)
            )
            return y_BxSxD, x_BxSxD if keep else None

        x_BxSxD = self.embeddings(batch, dropout_keys=_fold_in(dropout_keys, config.num_hidden_layers))
        indices = jnp.arange(config.num_hidden_layers)
        unroll = min(config.scan_unroll, config.num_hidden_layers)
        return jax.lax.scan(_remat(config)(layer), x_BxSxD, (layers, indices), unroll=unroll)


class BertForPreTraining(Bert):
    """With a masked-token head tied to the word embeddings, and a next-sentence head."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        D = config.hidden_size
        self.mlm_transform = Dense(config, (D, D), ("embed", None), rngs=rngs)
        self.mlm_norm = LayerNorm(config)
        self.mlm_bias = nnx.Param(jnp.zeros(config.padded_vocab_size), logical_axes=("vocab",))
        self.pooler = Dense(config, (D, D), ("embed", None), rngs=rngs)
        self.nsp = Dense(config, (D, 2), ("embed", None), rngs=rngs)

    def __call__(self, batch: Batch, *, dropout_keys: jax.Array | None = None) -> Outputs:
        config = self.config
        hidden_BxSxD = self.encode(batch, dropout_keys=dropout_keys)
        hidden_BxKxD = _gather(hidden_BxSxD, batch["mlm_positions"])
        hidden_BxPxD = _gather(hidden_BxSxD, batch["cls_positions"])
        exists_V = jnp.arange(config.padded_vocab_size) < config.vocab_size
        return Outputs(
            self.mlm_norm(activation(config)(self.mlm_transform(hidden_BxKxD))),
            self.embeddings.word[...],
            jnp.where(exists_V, self.mlm_bias[...], jnp.finfo(jnp.float32).min / 2),
            self.nsp(jnp.tanh(self.pooler(hidden_BxPxD))).astype(jnp.float32),
        )


class BertForTask(Bert):
    """With one layer on top (Devlin et al. 2018, section 4): of the pooled [CLS], or of every token."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        D = config.hidden_size
        if config.head in ("classification", "regression"):
            self.pooler = Dense(config, (D, D), ("embed", None), rngs=rngs)
        self.classifier = Dense(config, (D, config.outputs), ("embed", None), rngs=rngs)

    def __call__(self, batch: Batch, *, dropout_keys: jax.Array | None = None) -> jax.Array:
        config = self.config
        of_text = config.head in ("classification", "regression")
        x_BxSxD = self.encode(batch, dropout_keys=dropout_keys)
        if of_text:
            x_BxSxD = jnp.tanh(self.pooler(x_BxSxD[:, :1]))
        if dropout_keys is not None and config.head != "qa":  # as Transformers' heads do
            keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, config.num_hidden_layers + 1)
            x_BxSxD = dropout(x_BxSxD, rate=config.hidden_dropout_prob, keys=keys)
        logits_BxSxC = self.classifier(x_BxSxD).astype(jnp.float32)
        return logits_BxSxC[:, 0] if of_text else logits_BxSxC


def _module(config: ModelConfig) -> type[Bert]:
    return BertForPreTraining if config.head == "pretraining" else BertForTask


def _remat(config: ModelConfig) -> Callable[..., Any]:
    """`jax.checkpoint` as configured, to be put around a layer (Chen et al. 2016)."""
    policies = jax.checkpoint_policies
    match config.remat:
        case "none":
            return lambda layer: layer
        case "dots":
            policy = policies.dots_with_no_batch_dims_saveable
        case "full":
            policy = policies.nothing_saveable
        case "offload":
            policy = policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    return functools.partial(jax.checkpoint, policy=policy)


def _last_axis(vector: jax.Array, like: jax.Array) -> jax.Array:
    """`vector` along the last axis of `like`: ranks are never promoted silently."""
    return jnp.expand_dims(vector, range(like.ndim - 1))


def _fold_in(keys: jax.Array | None, index: jax.Array | int) -> jax.Array | None:
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, index)


def _gather(x_BxSxD: jax.Array, positions_BxN: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BxSxD, positions_BxN[:, :, None], axis=1)
