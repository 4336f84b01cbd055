"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from bert_jax.planning.hlo_text import instructions
from bert_jax.planning.replica_groups import replica_groups

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

STARTED_WITH_OPERANDS = ("all-gather-start", "collective-permute-start", "reduce-scatter-start")
"""Their shape is what goes in and then what comes out."""

ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z\d]*\[([\d,]*)\]")


class Collective(NamedTuple):
    kind: str
    """One of KINDS."""
    bytes: int
    """Bytes of its result on one device."""
    times: int
    """It runs in the program: more than once in a loop."""
    devices: int
    """In a group: they do it with each other."""
    hosts: int
    """That a group lies on."""

    @property
    def sent(self) -> tuple[float, float]:
        """Bytes that a device sends in one of them: to others of its host, and to other hosts.

        The least that is known: first inside a host, then each device its part to the other hosts, and back
        inside. All-gather and reduce-scatter move all but what is there already; an all-reduce is both
        (Thakur et al. 2005, section 4).
        """
        here = self.devices / self.hosts
        if self.kind == "collective-permute":
            return (self.bytes, 0.0) if self.hosts == 1 else (0.0, self.bytes)
        if self.kind == "all-to-all":
            part = self.bytes / self.devices
            return part * (here - 1), part * (self.devices - here)
        whole = self.bytes * (self.devices if self.kind == "reduce-scatter" else 1)
        ways = 2 if self.kind == "all-reduce" else 1
        return ways * whole * (here - 1) / here, ways * whole / here * (self.hosts - 1) / self.hosts


def collectives(text: str, *, hosts: Sequence[int]) -> list[Collective]:
    """Every collective of `compiled.as_text()`, in the order of the text.

    Args:
      hosts: of each device of the mesh, flat: the number of its host, or of whatever has fast links inside.
    """
    found = []
    for instruction in instructions(text):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        size = _bytes(instruction.shape, result_only=instruction.opcode in STARTED_WITH_OPERANDS)
        groups = replica_groups(instruction.line, devices=len(hosts))
        found.append(
            Collective(
                kind,
                size,
                instruction.times,
                devices=max(len(group) for group in groups),
                hosts=max(len({hosts[device] for device in group}) for group in groups),
            )
        )
    return found


def _bytes(shape: str, *, result_only: bool) -> int:
    """Bytes of an array or a tuple of arrays; of the second half of it, where the first is what went in."""
    sizes = [
        math.prod(int(n) for n in dimensions.split(",") if n) * _bits(dtype) // 8
        for dtype, dimensions in ARRAY.findall(shape)
    ]
    sizes = [size for size in sizes if size > 4] or sizes if result_only else sizes
    return sum(sizes[len(sizes) // 2 :]) if result_only else sum(sizes)


def _bits(dtype: str) -> int:
    return 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
