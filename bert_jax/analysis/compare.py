"""Are two runs the same? Bit for bit, or where and by how much they part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bert_jax.config import Config
from bert_jax.config.files import differences, load_json
from bert_jax.workdir.checkpoint import check_has_run, read_state, steps_of
from bert_jax.workdir.metrics_file import Lines, read_metrics
from data_pipeline.errors import UserError

MEASURED = ("tokens_per_second", "mfu", "goodput", "hours")
"""What depends on the machine's clock, and says nothing of what was computed."""


class Parting(NamedTuple):
    """The first number that differs between two runs."""

    step: int
    split: str
    name: str
    one: float
    other: float


class Difference(NamedTuple):
    """Of an array of two checkpoints."""

    name: str
    largest: float
    """Absolute; infinite where one has other shapes or no such array."""
    relative: float
    """The norm of the difference to the norm of the first."""


def first_parting(one: Lines, other: Lines) -> Parting | None:
    """In the first line that both have and in which a number differs, leaving out MEASURED."""
    for step, split in sorted(one.keys() & other.keys()):
        a, b = one[step, split], other[step, split]
        for name in a:
            if name in MEASURED or name not in b:
                continue
            if a[name] != b[name] and not (math.isnan(a[name]) and math.isnan(b[name])):
                return Parting(step, split, name, a[name], b[name])
    return None


def compare(one: Path, other: Path) -> Iterator[tuple[str, bool | None]]:
    """Of two workdirs: lines to read, each with whether the runs are the same in it; None: it cannot tell.

    Compared are the configs, the metrics of the steps that both have logged, and the arrays of the newest
    checkpoint that both have.

    Raises:
      FileNotFoundError, UserError: one of them holds no run, or they have no step in common.
    """
    for workdir in (one, other):
        check_has_run(workdir)
    a, b = (load_json(workdir / "config.json") for workdir in (one, other))
    odd = differences(a, b, free=("data.dir",))
    yield "config: " + ("the same" if not odd else "; ".join(odd)), True  # what it led to is compared below
    metrics = [read_metrics(workdir / "metrics.jsonl") for workdir in (one, other)]
    common = metrics[0].keys() & metrics[1].keys()
    shared = sorted(set(steps_of(one)) & set(steps_of(other)))
    if not common and not shared:
        raise UserError(f"{one} and {other} have neither a logged step nor a checkpoint in common")
    yield _of_metrics(len(common), first_parting(*metrics))
    if not shared:
        yield "checkpoints: no step in common", None
        return
    yield from _of_arrays(shared[-1], arrays(one, a, shared[-1]), arrays(other, b, shared[-1]))


def arrays(workdir: Path, config: Config, step: int) -> dict[str, np.ndarray]:
    """Name -> array of a checkpoint: parameters, moments, counters."""
    leaves = jax.tree.leaves_with_path(read_state(workdir, config, step=step))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves}


def parted(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[Difference]:
    """The arrays that are not the same bit for bit, the farthest first."""
    found = []
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            found.append(Difference(name, math.inf, math.inf))
        elif a.tobytes() != b.tobytes():
            distance = np.abs(a.astype(np.float64) - b.astype(np.float64))
            norm = max(float(np.linalg.norm(a.astype(np.float64))), 1e-300)
            found.append(Difference(name, float(distance.max()), float(np.linalg.norm(distance)) / norm))
    return sorted(found, key=lambda difference: (-difference.relative, difference.name))


def _of_metrics(common: int, parting: Parting | None) -> tuple[str, bool | None]:
    if not common:
        return "metrics: no line in common", None
    if parting is None:
        return f"metrics: the same in all {common} lines that both have", True
    step, split, name, one, other = parting
    return f"metrics: part at step {step} ({split}): {name} is {one!r}, not {other!r}", False


def _of_arrays(
    step: int, one: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> Iterator[tuple[str, bool]]:
    odd = parted(one, other)
    if not odd:
        yield f"checkpoint of step {step}: all {len(one)} arrays the same, bit for bit", True
        return
    yield f"checkpoint of step {step}: {len(odd)} of {len(one.keys() | other.keys())} arrays differ", False
    for name, largest, relative in odd[:5]:
        yield f"  {name}: by {largest:.2g} at most, {relative:.2g} of its norm", False
