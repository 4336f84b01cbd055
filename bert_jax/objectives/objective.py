"""What an objective is to the rest of the program: each module or object named in OBJECTIVES is one.

Losses and accuracies are (sum, weight) pairs. Pairs add up over microbatches, devices and evaluation batches;
the division happens once, at the end. So any split of a batch gives the same value and the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import EncoderConfig, ObjectiveConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.ops.attention.kernel import Kernels
from data_pipeline.config import DataConfig

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""Metric -> (sum, weight), float32 scalars."""


class Metric(NamedTuple):
    """A number by which a model is judged."""

    name: str
    title: str
    higher_is_better: bool = True
    baseline: str | None = None
    """Name of the number, in the manifest of a dataset, that a model reaches which knows no context."""


class RowShape(NamedTuple):
    """The sizes of a row of a batch."""

    sequence_length: int
    """S"""
    max_predictions: int = 0
    """K"""
    max_sequences: int = 1
    """P"""


class Objective(Protocol):
    """A module of this folder that is named in OBJECTIVES, or one of tasks/.

    It trains a head on top of an encoder. A head is a Flax NNX module with whatever else is trained beside
    the encoder; its parameters declare their own names in Transformers (models/layers.py). What it has as
    `teacher` is not trained: constants of the step (training/network.py).
    """

    @property
    def Config(self) -> type[ObjectiveConfig]: ...

    @property
    def INPUT_FORMATS(self) -> tuple[str, ...]:
        """Values of data.input_format for which this is the objective unless another one is asked for."""

    @property
    def REDUCTION(self) -> Literal["rows", "batch"]:
        """rows: the loss is a sum over rows, which microbatches and devices may share. batch: it needs all
        rows of the batch at once, as in-batch negatives do; it is a `WholeBatchObjective`."""

    @property
    def PREDICTS_TOKENS(self) -> bool:
        """Whether the head has a masked-LM head, as its attribute `mlm`."""

    @property
    def HUGGINGFACE_SUFFIX(self) -> str:
        """The class of Transformers is the encoder's prefix and this: ForPreTraining."""

    def metrics(self, settings: Any) -> tuple[Metric, ...]:
        """The metrics of a held-out split, in the order in which a person wants to read them."""

    def refuses(self, settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
        """Why it cannot train such an encoder on such rows, as a sentence; None if it can. A task has no data
        section; without one, an objective says whether it has the heads."""

    def init(self, settings: Any, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """The head, with initial parameters."""

    def sums(
        self,
        settings: Any,
        head: Any,
        encoder: EncoderModule,
        batch: Batch,
        *,
        kernels: Kernels,
        dropout_keys: jax.Array | None = None,
    ) -> Sums:
        """Losses and accuracies of a batch. Dropout is on if there are keys, one for each row."""

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """What the sum of each loss is divided by, for a whole batch. The losses together are minimized, each
        times its `coefficient` of the settings; where that is 0, `sums` need not have it."""

    def flops(self, settings: Any, model: EncoderConfig, rows: RowShape) -> float:
        """FLOPs of the head's matrix products for a row, forward. A multiply-add counts as two."""

    def kept_bytes(self, settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
        """Bytes that the head leaves to the backward pass for a row, on one device of `tensor`."""


class WholeBatchObjective(Objective, Protocol):
    """One whose `sums` are `loss_sums` of `logits`: microbatches may then share all but the loss."""

    def logits(
        self,
        settings: Any,
        head: Any,
        encoder: EncoderModule,
        batch: Batch,
        *,
        kernels: Kernels,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """float32, a row for each row of the batch, and of nothing but that row."""

    def loss_sums(self, settings: Any, logits: jax.Array, batch: Batch) -> Sums:
        """The loss and the accuracy of a batch with labels, as `sums` has them."""


def through_logits(
    logits: Callable[..., jax.Array], loss_sums: Callable[[Any, jax.Array, Batch], Sums]
) -> Callable[..., Sums]:
    """The `sums` of a `WholeBatchObjective`."""

    def sums(
        settings: Any,
        head: Any,
        encoder: EncoderModule,
        batch: Batch,
        *,
        kernels: Kernels,
        dropout_keys: jax.Array | None = None,
    ) -> Sums:
        found = logits(settings, head, encoder, batch, kernels=kernels, dropout_keys=dropout_keys)
        return loss_sums(settings, found, batch)

    return sums


def mean(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """sum / weight; 0 where nothing was weighed."""
    total, weight = pair
    return total / jnp.maximum(weight, 1)


def weighted(of_rows: Mapping[str, jax.Array], weights_B: jax.Array) -> Sums:
    """What each row of a batch has, [B], each weighed."""
    return {name: ((value_B * weights_B).sum(), weights_B.sum()) for name, value_B in of_rows.items()}


def pairs(name: str, loss: jax.Array, hits: jax.Array, weight: jax.Array) -> Sums:
    """`{name}_loss` and `{name}_accuracy`."""
    return {f"{name}_loss": (loss, weight), f"{name}_accuracy": (hits, weight)}
