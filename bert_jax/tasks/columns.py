"""Columns of a record, checked: whatever is wrong with one is reported with its file and row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipeline.corpus import sanitize
from data_pipeline.errors import EmptyError, UserError

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
    if not isinstance(value, str | None):
        raise UserError(f"{where}: {name!r} is {value!r}, not a text")
    text = sanitize(value or "")
    if not text.strip():
        raise EmptyError(f"{where}: {name!r} is empty")
    return text


def identifier(where: str, name: str, value: Any) -> str:
    """What tells an example from the others."""
    if not isinstance(value, str | int):
        raise UserError(f"{where}: {name!r} is {value!r}, neither a string nor a whole number")
    return _not_empty(where, name, str(value))


def label_name(where: str, name: str, value: Any) -> str:
    """A label. Numbers and truth values are the same label however a file writes them, see `canonical`."""
    if not isinstance(value, str | int | float) or not np.isfinite(value if isinstance(value, float) else 0):
        raise UserError(f"{where}: {name!r} is {value!r}, neither a string nor a number")
    return canonical(_not_empty(where, name, repr(value) if isinstance(value, float) else str(value)))


def canonical(label: str) -> str:
    """A label as all files have it: 1, 1.0 and "1.00" are 1; true, "True" and "TRUE" are true."""
    if label.lower() in ("true", "false"):
        return label.lower()
    if re.fullmatch(r"-?[0-9]+\.[0-9]+", label):
        return label.rstrip("0").removesuffix(".")
    return label


def label_reader(labels: Sequence[str]) -> Callable[[str, str, Any], str]:
    """What reads labels as `label_name` does; where `labels` are names, a whole number counts them from 0."""
    names = tuple(map(canonical, labels))
    if not names or any(map(is_number, names)):
        return label_name

    def read(where: str, name: str, value: Any) -> str:
        label = label_name(where, name, value)
        if not is_number(label):
            return label
        if not 0 <= int(label) < len(names):
            raise UserError(f"{where}: {name!r} is {label}; task.labels names {len(names)}, from 0 on")
        return names[int(label)]

    return read


def is_number(label: str) -> bool:
    """Whether a label is a whole number."""
    return bool(re.fullmatch(r"-?[0-9]{1,9}", label))


def _not_empty(where: str, name: str, value: str) -> str:
    text = sanitize(value).strip()
    if not text:
        raise UserError(f"{where}: {name!r} is empty")
    return text


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
