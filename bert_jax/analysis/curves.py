"""Curves of a run's metrics: smoothed, and where those of two runs differ by more than noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bert_jax.workdir.metrics_file import Lines

MIN_STEPS = 20
"""Train losses that both runs must have logged before their noise can be estimated."""
STANDARD_ERRORS = 5
"""That a mean difference must be from zero. All windows of a run are looked at: of two runs that differ by
noise alone, one is beyond 3 in every third comparison, and beyond 5 in less than one of a hundred."""


class Curve(NamedTuple):
    x: np.ndarray
    y: np.ndarray


class Divergence(NamedTuple):
    """How far two smoothed train losses are from each other, at the steps that both have logged."""

    first: int | None
    """Step where it is more than the noise, and none before the first at which they differ; None: nowhere."""
    last: int
    """The last step that has a whole window around it."""
    difference: float
    """There; positive where the other run's is higher."""
    window: int
    noise: float
    """STANDARD_ERRORS of the mean of `window` differences, by their scatter around the smoothed ones."""


def curve(lines: Lines, split: str, name: str, *, by: str = "step") -> Curve:
    """A metric by steps, tokens or hours, where both are there and finite."""
    pairs = [
        (step if by == "step" else metrics.get(by, math.nan), metrics.get(name, math.nan))
        for (step, of), metrics in sorted(lines.items())
        if of == split
    ]
    points = np.array(pairs, np.float64).reshape(-1, 2)
    return Curve(*points[np.isfinite(points).all(axis=1)].T)


def interpolate_x(lines: Lines, step: int, *, by: str) -> float:
    """Tokens or hours at a step, between those of the lines around it."""
    if by == "step":
        return step
    known = sorted((at, metrics[by]) for (at, _), metrics in lines.items() if by in metrics)
    return float(np.interp(step, [0, *(at for at, _ in known)], [0.0, *(value for _, value in known)]))


def half_window(count: int) -> int:
    """Values on either side that are averaged with each of `count` ones: a twentieth of them in all."""
    return max(2, count // 40)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Means over windows around each value, which shrink towards both ends."""
    at = np.arange(len(values))
    sides = np.minimum(half_window(len(values)), np.minimum(at, at[::-1]))
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[at + sides + 1] - total[at - sides]) / (2 * sides + 1)


def divergence(one: Lines, other: Lines) -> Divergence | None:
    """The noise of the train losses; None where fewer than MIN_STEPS steps are in both."""
    a, b = curve(one, "train", "loss"), curve(other, "train", "loss")
    steps, in_a, in_b = np.intersect1d(a.x, b.x, return_indices=True)
    if len(steps) < MIN_STEPS:
        return None
    sides = half_window(len(steps))
    whole = slice(sides, len(steps) - sides)
    difference = b.y[in_b] - a.y[in_a]  # what they share, the fall and the luck of each batch, is gone
    apart = smoothed(difference)
    window = 2 * sides + 1
    noise = STANDARD_ERRORS * float((difference - apart)[whole].std()) / math.sqrt(window)
    apart = apart[whole]
    beyond = steps[whole][np.abs(apart) > noise]
    # A window reaches ahead of the step in its middle, to differences that are still to come.
    first = int(max(beyond[0], steps[difference != 0][0])) if len(beyond) else None
    return Divergence(first, int(steps[whole][-1]), float(apart[-1]), window, noise)
