"""metrics.jsonl, an object a line: read, and cut back to a step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from data_pipeline.errors import UserError

Lines = dict[tuple[int, str], dict[str, float]]
"""(step, split) -> metrics."""


def read_metrics(file: Path, *, finished: bool = False) -> Lines:
    """The lines of a metrics.jsonl.

    Args:
      finished: nobody writes to it any more. Otherwise a last line without its end is half-written, and none.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: a line is not of metrics; names it.
    """
    found: Lines = {}
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1):
        if not (finished or line.endswith(b"\n")):
            break
        try:
            fields = json.loads(line)
            place = int(fields.pop("step")), str(fields.pop("split"))
            found[place] = {n: math.nan if value is None else float(value) for n, value in fields.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}:{number} is not a line of metrics ({error})") from error
    return found


def rewind(path: Path, step: int) -> None:
    """Cuts off the lines after `step`, and a half-written last one. Others that are none of metrics stay."""
    if not path.exists():
        return
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or _step(line) > step:
            break
        size += len(line)
    os.truncate(path, size)


def _step(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -math.inf
