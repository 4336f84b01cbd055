"""Encoder and objective together: which parameters there are, and the functions of them.

Parameters are a nested dict of float32 arrays, {"encoder": ..., "objective": ...}; outside of models/ and
objectives/ a network is nothing else. A teacher, from which a student learns, is a part of the head that is
not trained: its parameters are apart from the others, as constants of the step.

Layers are stacked, but in the state of an unrolled run they are apart (models/stack.py); the functions here
take both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
from flax import nnx

from bert_jax.config import EncoderConfig, ObjectiveConfig, RtdConfig, TaskConfig
from bert_jax.models import encoder_of
from bert_jax.models.encoder import Batch, Encoder
from bert_jax.models.layers import Axes, Depth
from bert_jax.objectives import mlm, rtd
from bert_jax.objectives.distillation import Distillation, Teacher
from bert_jax.objectives.objective import Objective, RowShape, Sums, WholeBatchObjective
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.precision import precision
from bert_jax.training.microbatches import in_parts

Params = dict[str, Any]

CONSTANTS = nnx.PathContains("teacher")
"""Parameters that are not trained."""


class Network(NamedTuple):
    """An encoder and what it is trained for: all that decides which parameters there are."""

    model: EncoderConfig
    objective: Objective
    settings: ObjectiveConfig
    """The config section of the objective."""

    @property
    def encoder(self) -> Encoder:
        return encoder_of(self.model)

    @property
    def teacher(self) -> Teacher | None:
        """The model that this one learns from, if there is one."""
        return self.objective.teacher if isinstance(self.objective, Distillation) else None

    @property
    def huggingface_class(self) -> str:
        """Transformers' class for it: BertForPreTraining."""
        return f"{self.encoder.HUGGINGFACE.class_prefix}{self.objective.HUGGINGFACE_SUFFIX}"

    @property
    def generator(self) -> Network | None:
        """The masked language model that is trained beside the encoder, as a network of its own."""
        if not isinstance(self.settings, RtdConfig):
            return None
        return Network(rtd.generator_config(self.settings, self.model), mlm, mlm.Config())


@dataclass(frozen=True)
class Parameter:
    """What is declared of a parameter where it is made (models/layers.py), and its shape."""

    shape: tuple[int, ...]
    logical_axes: Axes
    huggingface: str
    transposed: bool
    decay: bool
    depth: Depth

    @property
    def is_stacked(self) -> bool:
        """Whether the first axis is the layers of the encoder."""
        return self.logical_axes[0] == "layers"


class Modules(nnx.Module):
    """A network with its parameters."""

    def __init__(self, network: Network, *, rngs: nnx.Rngs):
        self.encoder = network.encoder.init(network.model, rngs=rngs)
        self.objective = network.objective.init(network.settings, network.encoder, network.model, rngs=rngs)


@functools.cache
def _definition(network: Network) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    return _split(nnx.eval_shape(lambda: Modules(network, rngs=nnx.Rngs(0))))


def _split(modules: Modules) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The definition, what is not trained, and what is."""
    definition, *states = nnx.split(modules, CONSTANTS, ...)
    constants, trained = states
    return definition, constants, trained


def parameters(network: Network) -> Params:
    """A nested dict like the parameters, of a `Parameter` each."""
    return _declared(_definition(network)[2])


def constants(network: Network) -> Params:
    """The same of what the head has that is not trained: {"teacher": ...}, or {} without a teacher."""
    return _declared(_definition(network)[1]).get("objective", {})


def with_constants(params: Params, constants: Params) -> Params:
    """All that the functions here need of a network with a teacher; `params` where there is none."""
    return params | {"objective": params["objective"] | constants} if constants else params


def _declared(state: nnx.State) -> Params:
    def declared(variable: nnx.Variable) -> Parameter:
        known = {
            name: variable.get_metadata(name) for name in Parameter.__dataclass_fields__ if name != "shape"
        }
        return Parameter(shape=variable.shape, **known)

    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    return nnx.to_pure_dict(jax.tree.map(declared, state, is_leaf=is_variable))


def parameters_in_state(network: Network) -> Params:
    """`parameters` as the state of a run has them: where it is unrolled, those of each layer apart."""

    def declared(parameter: Parameter) -> Any:
        if not (parameter.is_stacked and network.model.is_unrolled):
            return parameter
        assert isinstance(parameter.depth, tuple)
        shape, axes = parameter.shape[1:], parameter.logical_axes[1:]
        return tuple(
            dataclasses.replace(parameter, shape=shape, logical_axes=axes, depth=depth)
            for depth in parameter.depth
        )

    return jax.tree.map(declared, parameters(network))


def init_params(network: Network, key: jax.Array) -> Params:
    """Initial parameters, float32: a function of the key alone."""
    return nnx.to_pure_dict(_split(Modules(network, rngs=nnx.Rngs(key)))[2])


def modules(network: Network, params: Params) -> Modules:
    """The network with these parameters, to be called inside of `jax.jit`."""
    return nnx.merge(_definition(network)[0], params)


def sums(
    network: Network,
    params: Params,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
    microbatches: int = 1,
) -> Sums:
    """Losses and accuracies of a batch. Dropout is on if there are keys, one for each row.

    Args:
      microbatches: parts of the batch that go through the encoder one after the other, if the loss is over
        the whole batch. Only the logits of all are kept, and the backward pass computes each part again: the
        same gradient in the memory of a part (gradient caching; Gao et al. 2021, arXiv 2101.06983).
    """
    if is_frozen(network):  # so that nothing is computed backward through it
        params = params | {"encoder": jax.lax.stop_gradient(params["encoder"])}
    objective, settings = network.objective, network.settings
    with precision(network.model.dtype):
        both = modules(network, params)
        if microbatches == 1:
            return objective.sums(
                settings, both.objective, both.encoder, batch, kernels=kernels, dropout_keys=dropout_keys
            )
        assert objective.REDUCTION == "batch"
        whole = cast(WholeBatchObjective, objective)

        @jax.checkpoint
        def logits(inputs: tuple[Batch, jax.Array | None]) -> jax.Array:
            part, keys = inputs
            return whole.logits(
                settings, both.objective, both.encoder, part, kernels=kernels, dropout_keys=keys
            )

        found = in_parts(logits, (batch, dropout_keys), microbatches)
        return whole.loss_sums(settings, found, batch)


def loss_weights(network: Network, batch: Batch) -> dict[str, jax.Array]:
    """What the sum of each loss that is minimized is divided by, for a whole batch."""
    weights = network.objective.weights(batch)
    return {name: weight for name, weight in weights.items() if network.settings.coefficient(name)}


def total_loss(network: Network, losses: Mapping[str, Any]) -> Any:
    """What is minimized: these losses together, as much as each counts."""
    return sum(network.settings.coefficient(name) * loss for name, loss in losses.items())


def is_frozen(network: Network) -> bool:
    """Whether the encoder keeps its weights."""
    return isinstance(network.settings, TaskConfig) and network.settings.freeze


@functools.cache
def _encoder_definition(model: EncoderConfig) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: encoder_of(model).init(model, rngs=nnx.Rngs(0))))[0]


def encode(network: Network, params: Params, batch: Batch, *, kernels: Kernels) -> jax.Array:
    """The last hidden states, [B, S, D] in the compute dtype. Parameters of the objective may be missing."""
    with precision(network.model.dtype):
        encoder = nnx.merge(_encoder_definition(network.model), params["encoder"])
        return encoder.encode(batch, kernels=kernels)


def real_size(network: Network, parameter: Parameter) -> int:
    """The number of elements, without the rows that pad the vocabulary."""
    count = math.prod(parameter.shape)
    if "vocab" in parameter.logical_axes:
        count = count // network.model.padded_vocab_size * network.model.vocab_size
    return count


def count_parameters(network: Network) -> int:
    """The number of parameters, without the rows that pad the vocabulary."""
    return sum(real_size(network, parameter) for parameter in jax.tree.leaves(parameters(network)))


def flops(network: Network, rows: RowShape) -> float:
    """FLOPs of the matrix products for a row, forward and backward, without rematerialization.

    Backward counts as twice forward (Kaplan et al. 2020, section 2.1), but of a frozen encoder and of a
    teacher, which have none. Every position counts, padding too, as it is computed.
    """
    encoder = network.encoder.flops(network.model, sequence_length=rows.sequence_length)
    head = network.objective.flops(network.settings, network.model, rows)
    total = (1.0 if is_frozen(network) else 3.0) * encoder + 3.0 * head
    if network.generator is not None:
        total += flops(network.generator, rows)
    if isinstance(network.objective, Distillation):
        total += network.objective.teacher_flops(network.settings, rows)
    return total


def kept_bytes(network: Network, rows: RowShape, *, kernels: Kernels, tensor: int = 1) -> float:
    """Bytes that the forward pass over a row leaves to the backward pass, on one device of `tensor`."""
    S, model = rows.sequence_length, network.model
    encoder = network.encoder.kept_bytes(model, sequence_length=S, kernels=kernels, tensor=tensor)
    head = network.objective.kept_bytes(network.settings, model, rows, tensor=tensor)
    generator = network.generator
    return encoder + head + (kept_bytes(generator, rows, kernels=kernels, tensor=tensor) if generator else 0)
