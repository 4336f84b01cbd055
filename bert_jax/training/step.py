"""One step of training, one of evaluation: pure functions of a run's spec, a state and a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.models.encoder import Batch
from bert_jax.objectives.objective import Sums, mean
from bert_jax.parallel import sharding
from bert_jax.training import microbatches, network
from bert_jax.training.batch_ramp import Stage
from bert_jax.training.network import Params, with_constants
from bert_jax.training.optimizer import make_optimizer, schedule_of
from bert_jax.training.run_spec import RunSpec
from data_pipeline.batch import unpack

NO_CONSTANTS: Params = {}
"""What a network without a teacher has of them."""


class TrainState(NamedTuple):
    """All that a step changes. What it reads beyond this is the config, the batch and a teacher's parameters.

    Layers are stacked, or apart if the run is unrolled (models/stack.py).
    """

    step: jax.Array
    """int32 scalar: steps done."""
    params: Params
    opt_state: Any


def init_state(spec: RunSpec) -> TrainState:
    """The state before the first step: a function of `train.seed` alone, on any mesh."""
    params = network.init_params(spec.network, jax.random.key(spec.config.train.seed))
    params = jax.tree.map(
        lambda x, declared: tuple(x) if isinstance(declared, tuple) else x,
        params,
        network.parameters_in_state(spec.network),
    )
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(spec).init(params))


def state_sharding(spec: RunSpec, mesh: Mesh) -> Any:
    """A TrainState of shardings: each moment lies like its parameter, scalars are on every device."""
    params = jax.tree.map(
        lambda parameter: sharding.of_parameter(mesh, *parameter.logical_axes),
        network.parameters_in_state(spec.network),
    )
    whole = sharding.replicated(mesh)
    abstract = jax.eval_shape(lambda: init_state(spec))
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    opt_state = optax.tree_utils.tree_map_params(
        make_optimizer(spec),
        lambda moment, where: moment if is_masked(moment) else where,
        abstract.opt_state,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=is_masked,
    )
    return TrainState(whole, params, opt_state)  # type: ignore[arg-type]


def train_step(
    spec: RunSpec,
    stage: Stage,
    state: TrainState,
    batch: Batch,
    constants: Params = NO_CONSTANTS,
    schedule_fraction: jax.Array | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, unless the loss or the gradient is not finite: then the parameters stay as they are.

    Metrics are scalars: means over the batch; `grad_norm` unclipped; `tokens`, no padding; `skipped`, 1 if
    there was no update. `constants` are the parameters of a teacher. `schedule_fraction`, the part of a time
    budget that is over, is the place in the learning-rate schedule, from 0 to 1; None: the step is.
    """
    batch = unpack(batch)
    position = state.step if schedule_fraction is None else schedule_fraction * spec.steps
    grads, sums = gradients(spec, stage, state, batch, constants)
    metrics = {name: mean(pair) for name, pair in sums.items()}
    metrics |= {
        "loss": jnp.asarray(
            network.total_loss(
                spec.network, {name: metrics[name] for name in network.loss_weights(spec.network, batch)}
            )
        ),
        "learning_rate": jnp.asarray(schedule_of(spec)(position), jnp.float32),
        "grad_norm": optax.tree.norm(grads),
        "tokens": (batch["segment_ids"] > 0).sum(),
    }
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    metrics["skipped"] = 1 - finite.astype(jnp.int32)

    updates, opt_state = make_optimizer(spec).update(
        grads, state.opt_state, state.params, position=position, finite=finite
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), metrics


def jit_init_state(spec: RunSpec, mesh: Mesh) -> Callable[[], TrainState]:
    """`init_state`, each part made where it lies."""
    return jax.jit(functools.partial(init_state, spec), out_shardings=state_sharding(spec, mesh))


def jit_train_step(spec: RunSpec, mesh: Mesh, stage: Stage) -> Any:
    """`train_step` of a state, a batch and constants on the mesh; the old state's memory becomes the new
    one's."""
    return jax.jit(
        functools.partial(train_step, spec, stage),
        out_shardings=(state_sharding(spec, mesh), sharding.replicated(mesh)),
        donate_argnums=0,
    )


def abstract_state(spec: RunSpec, mesh: Mesh) -> TrainState:
    """Shapes, types and layout of the state, without its memory."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        jax.eval_shape(lambda: init_state(spec)),
        state_sharding(spec, mesh),
    )


def abstract_constants(spec: RunSpec, mesh: Mesh) -> Params:
    """The same of the parameters of a teacher: float32, laid out as those that are trained."""
    return jax.tree.map(
        lambda parameter: jax.ShapeDtypeStruct(
            parameter.shape, jnp.float32, sharding=sharding.of_parameter(mesh, *parameter.logical_axes)
        ),
        network.constants(spec.network),
    )


def gradients(
    spec: RunSpec, stage: Stage, state: TrainState, batch: Batch, constants: Params = NO_CONSTANTS
) -> tuple[Params, Sums]:
    """Gradients of the loss by the parameters, and the sums of the metrics.

    Losses are summed over microbatches and devices and divided once, by the weights of the whole batch: the
    gradient does not depend on how the batch is cut. Along the mesh's `data` axis each device sums its own
    microbatches, and the gradients cross the network once, in `train.reduce_dtype`: layer by layer in the
    backward pass of the only microbatch, or after that of the last one.
    """
    train, objective = spec.config.train, spec.network.objective
    step_key = jax.random.fold_in(jax.random.key(train.seed, impl=train.dropout_prng), state.step)
    weights = network.loss_weights(spec.network, batch)

    def loss(params: Params, constants: Params, part: Batch, rows: jax.Array) -> tuple[jax.Array, Sums]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, rows)
        sums = network.sums(
            spec.network,
            with_constants(params, constants),
            part,
            kernels=spec.kernels,
            dropout_keys=keys,
            microbatches=through_encoder,
        )
        losses = {name: mean((sums[name][0], weight)) for name, weight in weights.items()}
        return jnp.asarray(network.total_loss(spec.network, losses)), sums

    gradient = jax.grad(loss, has_aux=True)
    whole = objective.REDUCTION == "batch"
    parts, through_encoder = (1, stage.microbatches) if whole else (stage.microbatches, 1)

    def summed(both: tuple[Params, Params], batch: Batch, rows: jax.Array) -> tuple[Params, Sums]:
        if parts == 1:
            return gradient(*both, batch, rows)

        def add(total: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(*both, *inputs)), None

        inputs = microbatches.cut((batch, rows), parts)
        first = jax.eval_shape(gradient, *both, *jax.tree.map(lambda x: x[0], inputs))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        return jax.lax.scan(add, zeros, inputs)[0]

    rows = jnp.arange(stage.rows)
    if whole:  # the compiler gathers what the loss needs of other rows
        return summed((state.params, constants), batch, rows)
    stacked = jax.tree.map(lambda parameter: parameter.is_stacked, network.parameters(spec.network))
    over_data = sharding.sum_over_data(
        summed,
        dtype=train.reduce_dtype,
        manual_axes=spec.manual_axes,
        early=jax.tree.map(lambda is_stacked: is_stacked and parts == 1, stacked),
    )
    return over_data((state.params, constants), batch, rows)


def eval_step(spec: RunSpec, params: Params, batch: Batch) -> Sums:
    """(sum, weight) pairs of a held-out batch, without dropout. `params` are `with_constants`.

    In microbatches, as in training: a batch that has to be cut there has no room as a whole here.
    """
    sums = functools.partial(network.sums, spec.network, params, kernels=spec.kernels)
    batch, parts = unpack(batch), spec.config.train.microbatches
    if parts == 1 or spec.network.objective.REDUCTION == "batch":
        return sums(batch, microbatches=parts)
    of_parts = jax.lax.map(sums, microbatches.cut(batch, parts))
    return jax.tree.map(lambda x: x.sum(axis=0), of_parts)
