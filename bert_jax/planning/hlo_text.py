"""Instructions of a compiled program, read from its text, and how often each runs."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>.*?) (?P<opcode>[a-z][a-z\-]*)\(")
CALLED = re.compile(r"(?:body|condition|calls|to_apply)=(%?[\w.\-]+)|branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
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

    A loop whose trip count the compiler does not give counts as one turn.
    """
    found: list[tuple[str, re.Match[str], str]] = []
    called_from: dict[str, list[tuple[str, int]]] = defaultdict(list)
    computation = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            computation = match["name"]
        elif match := INSTRUCTION.match(line):
            found.append((computation, match, line))
            if match["opcode"] in SAME_CALL:
                continue
            trips = TRIPS.search(line)
            names = ", ".join(one or several for one, several in CALLED.findall(line))
            for name in re.findall(r"[\w.\-]+", names):
                called_from[name].append((computation, int(trips[1]) if trips else 1))

    known: dict[str, int] = {}

    def times(name: str) -> int:
        if name not in known:
            callers = called_from[name]
            known[name] = sum(times(caller) * trips for caller, trips in callers) if callers else 1
        return known[name]

    return [Instruction(match["shape"], match["opcode"], line, times(where)) for where, match, line in found]
