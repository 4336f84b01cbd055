"""AdamW, its learning-rate schedule, and which parameters decay."""

from __future__ import annotations

import jax
import optax

from bert_jax.config import Config
from bert_jax.model import Params

UNDECAYED = ("bias", "scale", "mlm_bias")
"""Last names of parameters without weight decay: biases, LayerNorm (google-research/bert/optimization.py)."""


def learning_rate_schedule(config: Config) -> optax.Schedule:
    """Linear warm-up from 0, then the configured way down to `end_learning_rate` at `train.steps`."""
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
    if not o.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, o.learning_rate, o.warmup_steps)
    return optax.join_schedules([warmup, decay], [o.warmup_steps])


def decay_mask(params: Params) -> Params:
    """True for each parameter that decays: matrices and embeddings."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in UNDECAYED, params)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (Loshchilov and Hutter 2019) with decay on `decay_mask` only."""
    o = config.optimizer
    return optax.chain(
        optax.clip_by_global_norm(o.clip_norm),
        optax.adamw(
            learning_rate_schedule(config),
            b1=o.b1,
            b2=o.b2,
            eps=o.eps,
            weight_decay=o.weight_decay,
            mask=decay_mask,
        ),
    )
