"""With which changes of its config a run may go on: those that leave alone all that it has done so far."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from bert_jax.config import Config
from bert_jax.config.files import differences
from bert_jax.training.optimizer import learning_rate_schedule

FREE = (
    "data.dir",
    "data.source",
    "model.scan_unroll",
    "model.attention",
    "model.remat",
    "train.microbatches",
    "train.log_every",
    "train.eval_every",
    "train.eval_batches",
    "train.stop_at",
    "train.skips",
    "train.hang_seconds",
    "task.train",
    "task.validation",
    "mesh",
    "checkpoint",
)
"""None of these fields changes the batches or the objective, though another mesh, unrolling or cut into
microbatches rounds differently. The dataset itself is compared by its fingerprint."""

TO_COME = (
    "train.steps",
    "train.budget",
    "optimizer.schedule",
    "optimizer.decay_steps",
    "optimizer.polynomial_power",
    "optimizer.end_learning_rate",
)
"""Nor do these, as long as the learning rate of every step so far stays what it was: a warmup_stable_decay
that is not in its decay can be made longer, and a constant one can be given a decay (Haegele et al. 2024)."""


def obstacles(saved: Config, config: Config, *, step: int) -> list[str]:
    """`field is its saved value, not the new one` for each change with which a run cannot go on at `step`."""
    same_so_far = np.array_equal(_learning_rates(saved, step), _learning_rates(config, step))
    by_the_clock = {saved.train.hours, config.train.hours} != {None}
    free = (*FREE, *TO_COME) if same_so_far and not by_the_clock else FREE
    return differences(saved, config, free=free)


def _learning_rates(config: Config, step: int) -> np.ndarray:
    """Of the steps up to one."""
    rates = jnp.asarray(learning_rate_schedule(config)(jnp.arange(step)), jnp.float32)
    return np.broadcast_to(rates, (step,))
