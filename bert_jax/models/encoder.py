"""What an encoder is to the rest of the program: each module or object named in MODELS is an `Encoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
from flax import nnx

from bert_jax.config import EncoderConfig
from bert_jax.ops.attention.kernel import Kernels
from data_pipeline.config import DataConfig

Batch = Mapping[str, jax.Array]
"""See data_pipeline/batch.py; an encoder reads token_ids, segment_ids, position_ids and token_type_ids, and
the width of cls_positions: how many sequences a row may have. Without them it has one."""


def max_segments(batch: Batch) -> int:
    """The most sequences that a row of such a batch may have."""
    return batch["cls_positions"].shape[1] if "cls_positions" in batch else 1


class LayerStates(NamedTuple):
    """What one layer makes of a batch, in the compute dtype."""

    hidden_BxSxD: jax.Array
    """What leaves it; of the last layer what `encode` returns."""
    query_BxSxD: jax.Array
    """Before any rotation, like the keys."""
    key_BxSxD: jax.Array
    value_BxSxD: jax.Array


class EncoderModule(Protocol):
    """An encoder with its parameters: a Flax NNX module. B rows, S columns, D hidden, L layers, H heads."""

    @property
    def config(self) -> EncoderConfig: ...

    @property
    def word_embeddings(self) -> nnx.Param:
        """[V, embedding_size], the vocabulary padded."""

    def encode(self, batch: Batch, *, kernels: Kernels, dropout_keys: jax.Array | None = None) -> jax.Array:
        """The last hidden states, [B, S, D] in the compute dtype.

        Dropout is on if there are keys, one for each row. `word_embeddings` in the batch, [B, S,
        embedding_size], stand in for those of token_ids.
        """

    def encode_with_states(
        self, batch: Batch, *, layer: int, kernels: Kernels, dropout_keys: jax.Array | None = None
    ) -> tuple[jax.Array, LayerStates]:
        """What `encode` returns, and the states of the layer of that number, counted from 0."""

    def attention_maps(self, batch: Batch) -> jax.Array:
        """[L, H, S, S] float32 for a batch of one row: how much of each key (last axis) a query takes."""


@dataclass(frozen=True)
class HuggingFace:
    """How Transformers calls an encoder and its parts."""

    model_type: str
    class_prefix: str
    """The class of a model is this and a suffix that the objective has: Bert + ForMaskedLM."""
    base_prefix: str
    """Begins the names of the encoder's own tensors, except in the files of a model without a head."""
    fields: tuple[str, ...]
    """Fields of our config that config.json has under the same name."""
    constants: Mapping[str, Any]
    """Further fields of config.json that we write, always with these values."""
    token_ids: Mapping[str, str]
    """Fields of config.json with the id of a special token, and its role: pad, cls, sep, mask."""
    required: Mapping[str, Any]
    """Fields of config.json that may be missing, but may have no other value than this."""
    values: Mapping[str, Mapping[Any, Any]]
    """Other names of values that we know, by field."""
    legacy_suffixes: Mapping[str, str]
    """Ends of tensor names in older files, and what they are today."""
    tied: Mapping[str, str]
    """Tensors that a file may have, and of which other tensor they must be a copy."""
    unused: tuple[str, ...]
    """Tensors that a file may have and that nothing here uses."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Fields of ours that config.json has under another name, and that name."""
    read_fields: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    """config.json in any spelling that we know -> with `fields` by their names. Raises UserError if a value
    is none that we can run."""
    written_fields: Callable[[Any], dict[str, Any]] = lambda config: {}
    """Further fields of config.json, which follow from ours."""

    @property
    def has_pooler(self) -> bool:
        """Whether the class without a head, such as BertModel, has one unless it is told not to."""
        return f"{self.base_prefix}pooler.dense.weight" in self.unused


class Encoder(Protocol):
    """A module of this folder, or an object of one, that is named in MODELS."""

    @property
    def Config(self) -> type[EncoderConfig]: ...

    @property
    def HUGGINGFACE(self) -> HuggingFace: ...

    def init(self, config: Any, *, rngs: nnx.Rngs) -> EncoderModule:
        """The encoder with initial parameters."""

    def refuses(self, config: Any, data: DataConfig) -> str | None:
        """Why it cannot read such rows, as a sentence; None if it can."""

    def with_dropout(self, config: Any, rate: float) -> EncoderConfig:
        """`config` with this rate wherever the encoder has dropout."""

    def attention_dropout(self, config: Any) -> float:
        """The dropout rate of the attention probabilities."""

    def window(self, config: Any) -> int | None:
        """How many positions a layer with a window sees to each side; None if no layer has one."""

    def flops(self, config: Any, *, sequence_length: int) -> float:
        """FLOPs of the matrix products of a row, forward. A multiply-add counts as two."""

    def kept_bytes(self, config: Any, *, sequence_length: int, kernels: Kernels, tensor: int = 1) -> float:
        """Bytes that the forward pass over a row leaves to the backward pass, on one device.

        Args:
          tensor: size of the mesh axis over which heads and the wide layer are cut.
        """

    # Heads: what makes each, with initial parameters. Their parameters bear the names that this family has
    # for them in Transformers. Where it has no such head there is None, and what wants it is refused.

    @property
    def masked_lm_head(self) -> Callable[..., Any]:
        """(config, rngs=) -> [..., D] -> [..., embedding_size], what the tied decoder multiplies; has its
        `bias`, [V]."""

    @property
    def replaced_token_head(self) -> Callable[..., Any] | None:
        """(config, rngs=) -> [B, S, D] -> [B, S] float32 logits: whether a token is not the original one."""

    @property
    def pooler(self) -> Callable[..., Any] | None:
        """(config, rngs=) -> [..., D] of [CLS] -> [..., D]."""

    @property
    def next_sentence_classifier(self) -> Callable[..., Any] | None:
        """(config, rngs=) -> [..., D] pooled -> [..., 2] float32 logits."""

    @property
    def sequence_classification_head(self) -> Callable[..., Any] | None:
        """(config, num_labels=, rngs=) -> [B, S, D], segment ids [B, S] -> [B, C] float32 logits; takes
        dropout_keys."""

    @property
    def token_classification_head(self) -> Callable[..., Any] | None:
        """(config, num_labels=, rngs=) -> [B, S, D] -> [B, S, C] float32 logits; takes dropout_keys."""

    @property
    def question_answering_head(self) -> Callable[..., Any] | None:
        """(config, rngs=) -> [B, S, D] -> [B, S, 2] float32 logits: whether an answer begins at a token, and
        whether it ends there; takes dropout_keys."""
