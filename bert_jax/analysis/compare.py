"""Whether two runs are the same, bit for bit, or where and by how much they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bert_jax.config.as_json import differences
from bert_jax.workdir.checkpoint import read_state
from bert_jax.workdir.inventory import check_has_run, steps_of
from bert_jax.workdir.metrics_file import Lines, read_metrics
from bert_jax.workdir.run_files import load_config, load_spec
from data_pipeline.errors import UserError

MEASURED = ("tokens_per_second", "mfu", "goodput", "hours")
"""What depends on the machine's clock, and says nothing of what was computed."""


class FirstDifference(NamedTuple):
    """The first number that differs between two runs."""

    step: int
    split: str
    name: str
    one: float
    other: float


class ArrayDifference(NamedTuple):
    """How an array differs between two checkpoints."""

    name: str
    largest: float
    """Absolute; infinite where one has other shapes or no such array."""
    relative: float
    """The norm of the difference to the norm of the first."""


def first_difference(one: Lines, other: Lines) -> FirstDifference | None:
    """The one in the first line that both have and in which a number differs, leaving out MEASURED."""
    for step, split in sorted(one.keys() & other.keys()):
        a, b = one[step, split], other[step, split]
        for name in a:
            if name in MEASURED or name not in b:
                continue
            if a[name] != b[name] and not (math.isnan(a[name]) and math.isnan(b[name])):
                return FirstDifference(step, split, name, a[name], b[name])
    return None


def compare(one: Path, other: Path) -> Iterator[tuple[str, bool | None]]:
    """Lines to read about two workdirs, each with whether the runs are the same in it; None: it cannot tell.

    Compared are the configs, the metrics of the steps that both have logged, and the arrays of the newest
    checkpoint that both have.

    Raises:
      FileNotFoundError, UserError: one of them holds no run, or they have no step in common.
    """
    for workdir in (one, other):
        check_has_run(workdir)
    changes = differences(load_config(one), load_config(other), free=("data.dir",))
    yield (
        "config: " + ("the same" if not changes else "; ".join(changes)),
        True,
    )  # its effect is compared below
    metrics = [read_metrics(workdir / "metrics.jsonl") for workdir in (one, other)]
    common = metrics[0].keys() & metrics[1].keys()
    shared = sorted(set(steps_of(one)) & set(steps_of(other)))
    if not common and not shared:
        raise UserError(f"{one} and {other} have neither a logged step nor a checkpoint in common")
    yield _compare_metrics(len(common), first_difference(*metrics))
    if not shared:
        yield "checkpoints: no step in common", None
        return
    yield from _compare_arrays(shared[-1], arrays(one, shared[-1]), arrays(other, shared[-1]))


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name: parameters, moments, counters."""
    leaves = jax.tree.leaves_with_path(read_state(workdir, load_spec(workdir), step=step))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves}


def differing_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[ArrayDifference]:
    """The arrays that are not the same bit for bit, the farthest first."""
    found = []
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            found.append(ArrayDifference(name, math.inf, math.inf))
        elif a.tobytes() != b.tobytes():
            distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
            norm = max(float(np.linalg.norm(a.astype(np.float64))), 1e-300)
            found.append(ArrayDifference(name, float(distance.max()), float(np.linalg.norm(distance)) / norm))
    return sorted(found, key=lambda difference: (-difference.relative, difference.name))


def _compare_metrics(common: int, difference: FirstDifference | None) -> tuple[str, bool | None]:
    if not common:
        return "metrics: no line in common", None
    if difference is None:
        return f"metrics: the same in all {common} lines that both have", True
    step, split, name, one, other = difference
    return f"metrics: differ first at step {step} ({split}): {name} is {one!r}, not {other!r}", False


def _compare_arrays(
    step: int, one: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> Iterator[tuple[str, bool]]:
    differing = differing_arrays(one, other)
    if not differing:
        yield f"checkpoint of step {step}: all {len(one)} arrays the same, bit for bit", True
        return
    yield (
        f"checkpoint of step {step}: {len(differing)} of {len(one.keys() | other.keys())} arrays differ",
        False,
    )
    for name, largest, relative in differing[:5]:
        yield f"  {name}: by {largest:.2g} at most, {relative:.2g} of its norm", False
