"""A result: one line of JSON, whole in itself."""

from __future__ import annotations

import json
import traceback
from typing import Any

Result = dict[str, Any]
"""`part`, `what`, numbers, and `ok`: True, False, or None for what was not run."""

NO_TIME = "no time left"
"""Why something was not run that a longer run, or another one, would have."""


def failure(error: BaseException) -> Result:
    """The line of what went wrong: the end of the traceback."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return {"ok": False, "error": " | ".join(line.strip() for line in lines[-4:])[-600:]}


def as_line(result: Result) -> str:
    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, list):
            return [short(item) for item in value]
        return value

    return json.dumps({name: short(value) for name, value in result.items()})
