"""AdamW and LAMB, their learning-rate schedules, and which parameters decay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Config
from bert_jax.models import bert as model
from bert_jax.models.bert import Params

UNDECAYED = ("bias", "scale", "mlm_bias")
"""Last names of parameters without weight decay: biases, LayerNorm (google-research/bert/optimization.py)."""


def learning_rate_schedule(config: Config) -> optax.Schedule:
    """Linear warm-up from 0, then the configured way on to `train.steps`; no jump in between."""
    o = config.optimizer
    rest = config.train.steps - o.warmup_steps
    match o.schedule:
        case "linear":
            decay = optax.linear_schedule(o.learning_rate, o.end_learning_rate, rest)
        case "polynomial":
            decay = optax.polynomial_schedule(o.learning_rate, o.end_learning_rate, o.polynomial_power, rest)
        case "cosine":
            decay = optax.cosine_decay_schedule(o.learning_rate, rest, o.end_learning_rate / o.learning_rate)
        case "constant":
            decay = optax.constant_schedule(o.learning_rate)
        case "inverse_sqrt":  # Vaswani et al. 2017, section 5.3
            first = max(1, o.warmup_steps)

            def decay(step: jax.Array) -> jax.Array:
                return o.learning_rate * jnp.sqrt(first / (first + jnp.maximum(step, 0)))
        case "warmup_stable_decay":
            stable = optax.constant_schedule(o.learning_rate)
            decay = optax.join_schedules([stable, _one_minus_sqrt(config)], [rest - o.decay_steps])
    if not o.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, o.learning_rate, o.warmup_steps)
    return optax.join_schedules([warmup, decay], [o.warmup_steps])


def _one_minus_sqrt(config: Config) -> optax.Schedule:
    """The way down that did best after a constant rate (Haegele et al. 2024, arXiv 2405.18392)."""
    o = config.optimizer

    def decay(step: jax.Array) -> jax.Array:
        done = jnp.sqrt(jnp.clip(step / o.decay_steps, 0, 1))
        return o.learning_rate + (o.end_learning_rate - o.learning_rate) * done

    return decay


def decay_mask(params: Params) -> Params:
    """True for each parameter that decays: matrices and embeddings."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)


def make_optimizer(config: Config) -> optax.GradientTransformationExtraArgs:
    """Clip by global norm, then AdamW (Loshchilov and Hutter 2019) or LAMB (You et al. 2020, algorithm 2).

    Both decay the parameters of `decay_mask` only; `optimizer.layer_decay` makes the steps of lower layers
    shorter. `update(..., position=, finite=)` wants the place in the schedule, in steps. Where the gradient
    is not finite it gives zeros; the moments fade as if it were zero, and counters go on.
    """
    o = config.optimizer
    adam = optax.scale_by_adam if o.bias_correction else _scale_by_uncorrected_adam
    return optax.chain(
        optax.clip_by_global_norm(o.clip_norm),
        _zero_unless_finite(),  # a choice between the new state and the old would cost XLA another copy
        adam(b1=o.b1, b2=o.b2, eps=o.eps, mu_dtype=o.mu_dtype),
        optax.add_decayed_weights(o.weight_decay, mask=decay_mask),
        _scale_by_trust_ratio(config) if o.name == "lamb" else optax.identity(),
        _scale_by_learning_rate(config),
        _scale_by_layer(config) if o.layer_decay < 1 else optax.identity(),
        _zero_unless_finite(),
    )


def _scale_by_learning_rate(config: Config) -> optax.GradientTransformationExtraArgs:
    rate = learning_rate_schedule(config)

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


def _scale_by_layer(config: Config) -> optax.GradientTransformation:
    """Updates times decay^d, d layers below the heads: 0 of the heads, 1 of the last layer, L + 1 of the
    embeddings (Clark et al. 2020, appendix B; google-research/electra/model/optimization.py)."""
    decay, L = config.optimizer.layer_decay, config.model.num_hidden_layers
    by_layer_L = decay ** jnp.arange(L, 0, -1)

    def scale(path: Any, update: jax.Array) -> jax.Array:
        match path[0].key:
            case "embeddings":
                return update * decay ** (L + 1)
            case "layers":
                return update * by_layer_L.reshape(-1, *[1] * (update.ndim - 1))
        return update

    return optax.stateless(lambda updates, params: jax.tree.map_with_path(scale, updates))


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


def _scale_by_trust_ratio(config: Config) -> optax.GradientTransformation:
    """Updates of the length of their parameters (You et al. 2020, algorithm 2), layer by layer.

    Norms of stacked parameters are those of one layer's slice, not of the stack. Parameters that do not decay
    keep their updates, as in google-research/albert/lamb_optimizer.py (exclude_from_layer_adaptation).
    """
    logical_axes = model.definition(config.model)[1]

    def scale(update: jax.Array, param: jax.Array, axes: tuple[str | None, ...], decays: bool) -> jax.Array:
        if not decays:
            return update
        within = tuple(i for i, axis in enumerate(axes) if axis != "layers")

        def norm(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.sum(jnp.square(x), axis=within, keepdims=True))

        ratio = norm(param) / norm(update)
        return update * jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, 1)

    def update(updates: Params, params: Params | None) -> Params:
        assert params is not None
        return jax.tree.map(scale, updates, params, logical_axes, decay_mask(params))

    return optax.stateless(update)
