"""Which devices take part in a collective with each other, read from its instruction."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

Groups = list[list[int]]
"""Places of devices in the mesh, flat: the compiler's own numbers."""

NUMBERS = r"\d+(?:,\d+)*"
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(?P<groups>\{[\d,{}]*\})\}")
IOTA = re.compile(
    rf"replica_groups=\[(?P<shape>{NUMBERS})\]<=\[(?P<counted>{NUMBERS})\](?:T\((?P<order>{NUMBERS})\))?"
)
MESH = re.compile(
    rf"replica_groups=mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\((?P<ids>{NUMBERS})\))?"
    r" \{(?P<along>[^}]*)\}"
)
ALL = re.compile(r"replica_groups=\{\}")


def replica_groups(line: str, *, devices: int) -> Groups:
    """The groups of a collective; for a permutation the pairs of sender and receiver.

    As XLA prints them, in four forms: {{0,1},{2,3}}; [2,2]<=[2,2]T(1,0), numbers counted, transposed and cut
    into rows; mesh['a'=2,'b'=2] {'b'}, devices that differ along these axes alone; {}, all.

    Args:
      line: the instruction.
      devices: how many there are, for the last form.

    Raises:
      ValueError: it names no groups, or in another form.
    """
    forms: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Groups]], ...] = (
        (LISTED, _listed),
        (IOTA, _counted),
        (MESH, _along_axes),
        (ALL, lambda _: [list(range(devices))]),
    )
    for pattern, read in forms:
        if match := pattern.search(line):
            return read(match)
    raise ValueError(f"no replica groups in a form that is known: {line.strip()[:300]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _listed(match: re.Match[str]) -> Groups:
    return [_numbers(group) for group in re.findall(rf"\{{({NUMBERS})\}}", match["groups"])]


def _counted(match: re.Match[str]) -> Groups:
    counted = _numbers(match["counted"])
    numbers = np.arange(math.prod(counted)).reshape(counted)
    if match["order"]:
        numbers = numbers.transpose(_numbers(match["order"]))
    groups, size = _numbers(match["shape"])
    return numbers.reshape(groups, size).tolist()


def _along_axes(match: re.Match[str]) -> Groups:
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match["axes"])}
    count = math.prod(axes.values())
    numbers = np.array(_numbers(match["ids"]) if match["ids"] else range(count)).reshape([*axes.values()])
    # 'a':(2)4 is a part of an axis: its 4 steps within each of 2.
    parts = {
        name: (int(before), int(size)) if size else (1, axes[name])
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", match["along"])
    }
    shape: list[int] = []
    within: list[int] = []
    for name, size in axes.items():
        before, part = parts.get(name, (size, 1))
        if name in parts:
            within.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    between = [dim for dim in range(len(shape)) if dim not in within]
    group = math.prod(shape[dim] for dim in within)
    return numbers.reshape(shape).transpose(between + within).reshape(-1, group).tolist()
