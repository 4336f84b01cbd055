"""Columns of a record, checked: whatever is wrong with one is reported with its file and row."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipeline.corpus import sanitize
from data_pipeline.errors import UserError

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that can be learned."""


def column(where: str, record: dict[str, Any], name: str, advice: str = "") -> Any:
    """The value in the column of that name of a record; UserError with `advice` if there is none."""
    if name not in record:
        raise UserError(f"{where} has no column {name!r}; it has {', '.join(record)}{advice}")
    return record[name]


def string(where: str, record: dict[str, Any], name: str, advice: str = "") -> str:
    """A text that is not empty."""
    value = column(where, record, name, advice)
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} is {value!r}, not a text")
    text = sanitize(value)
    if not text.strip():
        raise UserError(f"{where}: {name!r} is empty")
    return text


def label_name(where: str, name: str, value: Any) -> str:
    """A label or an id. No float: 1 and 1.0 would be two labels."""
    if not isinstance(value, str | int):  # which a bool is
        raise UserError(f"{where}: {name!r} is {value!r}, neither a string nor a whole number")
    label = sanitize(str(value)).strip()
    if not label:
        raise UserError(f"{where}: {name!r} is empty")
    return label


def number(where: str, name: str, value: Any) -> float:
    """A number that float32 holds."""
    try:
        found = np.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = np.nan
    if not abs(found) <= LARGEST:
        raise UserError(f"{where}: {name!r} is {value!r}, not a finite number of 32 bits")
    return found


def advice(flag: str, *, labelled: bool) -> str:
    """What to do about a column that is not there. A model that predicts was trained, and has no choice."""
    if labelled:
        return f"; choose one with --task.{flag}"
    return "; the model was trained on a column of that name"
