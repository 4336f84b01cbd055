"""The best evaluation so far, and early stopping: a pure function of `Progress`."""

from __future__ import annotations

import math

from bert_jax.objectives.objective import Metric
from bert_jax.workdir.progress import Progress


def record_evaluation(progress: Progress, *, step: int, value: float, metric: Metric) -> Progress:
    """Takes note of the value of `metric` that an evaluation gave; one that is not a number is never best."""
    best = progress.best_value
    if metric.higher_is_better:
        is_better = best is None or value > best
    else:
        is_better = best is None or value < best
    if is_better and not math.isnan(value):
        return progress._replace(evaluated=step, best_value=value, best_step=step, evaluations_since_best=0)
    return progress._replace(evaluated=step, evaluations_since_best=progress.evaluations_since_best + 1)


def patience_exhausted(progress: Progress, *, patience: int | None) -> bool:
    """Whether so many evaluations in a row came after the best one; never, if `patience` is None."""
    return patience is not None and progress.evaluations_since_best >= patience
