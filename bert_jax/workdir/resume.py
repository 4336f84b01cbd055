"""The resume rule: with which changes of its config a run may be resumed."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from bert_jax.config.as_json import differences
from bert_jax.training.optimizer import schedule_of
from bert_jax.training.run_spec import RunSpec

MAY_CHANGE = (
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
    "train.max_consecutive_skips",
    "train.watchdog_seconds",
    "task.train",
    "task.validation",
    "objective.teacher",
    "mesh",
    "init",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.keep_every",
    "checkpoint.keep_best",
    "checkpoint.best",
    "checkpoint.max_save_failures",
)
"""None of these fields changes the batches or the objective, though another mesh, unrolling or cut into
microbatches rounds differently. A dataset is compared by its fingerprint, a teacher by its digest."""

SCHEDULE_FIELDS = (
    "train.steps",
    "train.budget",
    "optimizer.schedule",
    "optimizer.decay_steps",
    "optimizer.polynomial_power",
    "optimizer.end_learning_rate",
)
"""These may change too, as long as the learning rate of every step so far stays: a warmup_stable_decay that
is not in its decay can be made longer, and a constant one can be given a decay (Haegele et al. 2024)."""


def incompatible_changes(saved: RunSpec, spec: RunSpec, *, step: int) -> list[str]:
    """`field is its saved value, not the new one` for each change that forbids resuming at `step`.

    What follows from the config counts too: the shape of the encoder and the labels of a task may come from
    files that have changed.
    """
    same_so_far = np.array_equal(_learning_rates(saved, step), _learning_rates(spec, step))
    by_the_clock = {saved.config.train.hours, spec.config.train.hours} != {None}
    free = (*MAY_CHANGE, *SCHEDULE_FIELDS) if same_so_far and not by_the_clock else MAY_CHANGE
    found = differences(saved.config, spec.config, free=free)
    found += differences(saved.network.model, spec.network.model, path="model", free=free)
    one, other = saved.network.settings, spec.network.settings
    found += differences(one, other, path=one.path, free=free)
    digests = [network.teacher and network.teacher.digest for network in (saved.network, spec.network)]
    if digests[0] != digests[1]:
        found.append(f"the digest of objective.teacher's weights is {digests[0]!r}, not {digests[1]!r}")
    if saved.best != spec.best:  # values of two metrics cannot be compared
        found.append(f"checkpoint.best is {saved.best.name!r}, not {spec.best.name!r}")
    if saved.config.task is not None and not same_so_far:
        found.append(f"the run has {saved.steps} steps, not {spec.steps}")
    return list(dict.fromkeys(found))


def _learning_rates(spec: RunSpec, step: int) -> np.ndarray:
    """The rate of each step up to one."""
    rates = jnp.asarray(schedule_of(spec)(jnp.arange(step)), jnp.float32)
    return np.broadcast_to(rates, (step,))
