"""What a compiled program sends over the network, read from its text."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>.*?) (?P<opcode>[a-z][a-z\-]*)\(")
CALLED = re.compile(r"(?:body|condition|calls|to_apply)=(%?[\w.\-]+)|branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z\d]*\[([\d,]*)\]")


class Collective(NamedTuple):
    kind: str
    """One of KINDS."""
    bytes: int
    """Bytes of its result on one device."""
    times: int
    """It runs in the program: more than once in a loop."""


def collectives(text: str) -> list[Collective]:
    """Every collective of `compiled.as_text()`, in the order of the text.

    A loop whose trip count the compiler does not give counts as one turn.
    """
    found: list[tuple[str, str, int]] = []
    called_from: dict[str, list[tuple[str, int]]] = defaultdict(list)
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation = match["name"]
        elif match := INSTRUCTION.match(line):
            trips = TRIPS.search(line)
            names = ", ".join(one or several for one, several in CALLED.findall(line))
            for name in re.findall(r"[\w.\-]+", names):
                called_from[name].append((computation, int(trips[1]) if trips else 1))
            kind = match["opcode"].removesuffix("-start")
            if kind in KINDS:
                is_started = match["opcode"].endswith("-start") and kind in (
                    "all-gather",
                    "collective-permute",
                )
                found.append((computation, kind, _bytes(match["shape"], result_only=is_started)))

    def times(name: str) -> int:
        return sum(times(caller) * trips for caller, trips in called_from[name]) if called_from[name] else 1

    return [Collective(kind, size, times(where)) for where, kind, size in found]


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
