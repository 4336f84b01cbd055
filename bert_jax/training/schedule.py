"""Learning-rate schedules: warm-up, then the configured way on to the last step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import OptimizerConfig


def learning_rate_schedule(o: OptimizerConfig, *, steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the configured way on to the last of `steps`; no jump in between."""
    rest = steps - warmup_steps
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
            first = max(1, warmup_steps)

            def decay(step: jax.Array) -> jax.Array:
                return o.learning_rate * jnp.sqrt(first / (first + jnp.maximum(step, 0)))
        case "warmup_stable_decay":
            stable = optax.constant_schedule(o.learning_rate)
            decay = optax.join_schedules([stable, _one_minus_sqrt(o)], [rest - o.decay_steps])
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, o.learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _one_minus_sqrt(o: OptimizerConfig) -> optax.Schedule:
    """The way down that did best after a constant rate (Haegele et al. 2024, arXiv 2405.18392)."""

    def decay(step: jax.Array) -> jax.Array:
        done = jnp.sqrt(jnp.clip(step / o.decay_steps, 0, 1))
        return o.learning_rate + (o.end_learning_rate - o.learning_rate) * done

    return decay
