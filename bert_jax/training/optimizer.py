"""The optimizers and their parts in common: clipping, decay, learning rate, what a lost step does."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.moving_average import keep_average
from bert_jax.training.muon import muon_for_matrices
from bert_jax.training.network import Network, Parameter, Params, is_frozen, parameters_in_state
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.schedule import learning_rate_schedule
from bert_jax.training.stable_adamw import stabilized


def schedule_of(spec: RunSpec) -> optax.Schedule:
    """The learning rate of a run by the step, counted from 0."""
    optimizer = spec.config.optimizer
    return learning_rate_schedule(optimizer, steps=spec.steps, warmup_steps=spec.warmup_steps)


def decay_mask(network: Network) -> Params:
    """The weight-decay mask: True for matrices and embeddings, False for biases and LayerNorm."""
    return jax.tree.map(lambda parameter: parameter.decay, parameters_in_state(network))


def make_optimizer(spec: RunSpec) -> optax.GradientTransformationExtraArgs:
    """Clip by global norm, then AdamW (Loshchilov and Hutter 2019), LAMB (You et al. 2020, algorithm 2),
    StableAdamW or Muon.

    All decay the parameters of `decay_mask` only; `optimizer.layer_decay` makes the steps of lower layers
    shorter. `update(..., position=, finite=)` wants the place in the schedule, in steps. Where the gradient
    is not finite it gives zeros; the moments fade as if it were zero, and counters count.
    """
    o, network = spec.config.optimizer, spec.network
    scale_by_adam = optax.scale_by_adam if o.bias_correction else _scale_by_uncorrected_adam
    adam = scale_by_adam(b1=o.b1, b2=o.b2, eps=o.eps, mu_dtype=o.mu_dtype)
    peak = o.learning_rate if o.decouple_lr else 1.0  # the rate that follows is divided by it
    layer_decay = 0.0 if is_frozen(network) else o.layer_decay
    decay = optax.add_decayed_weights(o.weight_decay / peak, mask=decay_mask(network))
    match o.name:
        case "adamw":
            direction = [adam, decay]
        case "lamb":
            direction = [adam, decay, _scale_by_trust_ratio(network)]
        case "stable_adamw":
            direction = [stabilized(adam, decay, network, b2=o.b2, eps=o.eps)]
        case "muon":
            direction = [muon_for_matrices(network, others=adam, mu_dtype=o.mu_dtype), decay]
    return optax.chain(
        optax.identity() if o.clip_norm is None else optax.clip_by_global_norm(o.clip_norm),
        _zero_unless_finite(),  # a choice between the new state and the old would cost XLA another copy
        *direction,
        _scale_by_learning_rate(spec),
        _scale_by_layer(network, layer_decay) if layer_decay < 1 else optax.identity(),
        _zero_unless_finite(),
        optax.identity() if o.ema_decay is None else keep_average(o.ema_decay),
    )


def _scale_by_learning_rate(spec: RunSpec) -> optax.GradientTransformationExtraArgs:
    rate = schedule_of(spec)

    def update(
        updates: Params, state: Any, params: Params | None = None, *, position: jax.Array, **_: Any
    ) -> tuple[Params, Any]:
        now = jnp.asarray(rate(position), jnp.float32)  # Optax's constant one gives a Python number
        return jax.tree.map(lambda x: -now.astype(x.dtype) * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _zero_unless_finite() -> optax.GradientTransformationExtraArgs:
    def update(
        updates: Params, state: Any, params: Params | None = None, *, finite: Any = True, **_: Any
    ) -> tuple[Params, Any]:
        return jax.tree.map(lambda x: jnp.where(finite, x, 0), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _scale_by_layer(network: Network, decay: float) -> optax.GradientTransformation:
    """Updates times decay^d, d layers below the heads: 0 of the heads, 1 of the last layer, L + 1 of the
    embeddings (Clark et al. 2020, appendix B; google-research/electra/model/optimization.py)."""
    heads = network.model.num_hidden_layers + 1
    declared = parameters_in_state(network)

    def scale(update: jax.Array, parameter: Parameter) -> jax.Array:
        if isinstance(parameter.depth, int):
            return update * decay ** (heads - parameter.depth)
        by_layer_L = decay ** (heads - jnp.asarray(parameter.depth))
        return update * by_layer_L.reshape(-1, *[1] * (update.ndim - 1))

    return optax.stateless(lambda updates, params: jax.tree.map(scale, updates, declared))


def _scale_by_uncorrected_adam(
    *, b1: float, b2: float, eps: float, mu_dtype: str
) -> optax.GradientTransformation:
    """Adam with its moments as they are, small at first (google-research/bert/optimization.py)."""
    tree = optax.tree_utils

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        mu = tree.tree_update_moment(grads, state.mu, b1, 1)
        nu = tree.tree_update_moment_per_elem_norm(grads, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(state.count + 1, tree.tree_cast(mu, mu_dtype), nu)

    return optax.GradientTransformation(optax.scale_by_adam(mu_dtype=mu_dtype).init, update)


def _scale_by_trust_ratio(network: Network) -> optax.GradientTransformation:
    """Updates of the length of their parameters (You et al. 2020, algorithm 2), layer by layer.

    Norms of stacked parameters are those of one layer's slice, not of the stack. Parameters that do not decay
    keep their updates, as in google-research/albert/lamb_optimizer.py (exclude_from_layer_adaptation).
    """
    declared = parameters_in_state(network)

    def scale(update: jax.Array, param: jax.Array, parameter: Parameter) -> jax.Array:
        if not parameter.decay:
            return update
        within = tuple(i for i, axis in enumerate(parameter.logical_axes) if axis != "layers")

        def norm(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.sum(jnp.square(x), axis=within, keepdims=True))

        ratio = norm(param) / norm(update)
        return update * jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, 1)

    def update(updates: Params, params: Params | None) -> Params:
        assert params is not None
        return jax.tree.map(scale, updates, params, declared)

    return optax.stateless(update)
