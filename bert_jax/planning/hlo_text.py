"""Instructions of a compiled program, read from its text, and how often each runs."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>.*?) (?P<opcode>[a-z][a-z\-]*)\(")
CALLED = re.compile(r"(?:body|condition|calls|to_apply)=(%?[\w.\-]+)|branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONDITION = re.compile(r"condition=%?([\w.\-]+)")
CONSTANT = re.compile(r"^\s+%?(?P<name>[\w.\-]+) = s32\[\]\S* constant\((?P<value>\d+)\)")
BOUND = re.compile(r"^\s+ROOT .* compare\(%?[\w.\-]+, %?(?P<bound>[\w.\-]+)\), direction=LT")
SAME_CALL = ("async-update", "async-done")
"""They name the computation that their async-start has called already."""


class Instruction(NamedTuple):
    shape: str
    opcode: str
    line: str
    times: int
    """It runs in the program: more than once in a loop."""


def instructions(text: str) -> list[Instruction]:
    """Every instruction of `compiled.as_text()`, in the order of the text.

    The turns of a loop are the compiler's or, as the TPU's gives none, the constant below which its condition
    holds: `jax.lax.scan` counts from 0. Without either it counts as one turn.
    """
    found: list[tuple[str, re.Match[str], str]] = []
    called_from: dict[str, list[tuple[str, str]]] = defaultdict(list)  # caller, the line of the call
    constants: dict[str, int] = {}
    turns: dict[str, int] = {}  # of the loop with this condition
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation, constants = match["name"], {}
        elif match := INSTRUCTION.match(line):
            found.append((computation, match, line))
            if constant := CONSTANT.match(line):
                constants[constant["name"]] = int(constant["value"])
            elif (bound := BOUND.match(line)) and bound["bound"] in constants:
                turns[computation] = constants[bound["bound"]]
            if match["opcode"] in SAME_CALL:
                continue
            names = ", ".join(one or several for one, several in CALLED.findall(line))
            for name in re.findall(r"[\w.\-]+", names):
                called_from[name].append((computation, line))

    def trips(line: str) -> int:
        if match := TRIPS.search(line):
            return int(match[1])
        condition = CONDITION.search(line)
        return turns.get(condition[1], 1) if condition else 1

    known: dict[str, int] = {}

    def times(name: str) -> int:
        if name not in known:
            callers = called_from[name]
            known[name] = sum(times(caller) * trips(line) for caller, line in callers) if callers else 1
        return known[name]

    return [Instruction(match["shape"], match["opcode"], line, times(where)) for where, match, line in found]
