"""Columns of a record, checked: whatever is wrong with one is reported with its file and row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from data_pipeline.corpus import is_blank, is_missing, sanitize
from data_pipeline.errors import EmptyError, UserError, require

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that can be learned."""

UNKNOWN = ("-1", "-100")
"""What data sets have in place of a label that is not known: as GLUE in its tests."""

OF_PREDICT = {"anchor": "text", "positive": "pair"}
"""Flags of `bert-jax predict` that name what is another field of some tasks."""

_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def column(where: str, record: dict[str, Any], name: str, advice: str = "") -> Any:
    """The value in the column of that name of a record; UserError with `advice` if there is none."""
    if name not in record:
        raise UserError(f"{where} has no column {name!r}; it has {', '.join(record)}{advice}")
    return record[name]


def string(where: str, record: dict[str, Any], name: str, advice: str = "") -> str:
    """A text that is not empty."""
    value = column(where, record, name, advice)
    if not isinstance(value, str) and not is_missing(value):
        raise UserError(f"{where}: {name!r} is {value!r}, not a text")
    text = "" if is_missing(value) else sanitize(value)
    if is_blank(text):
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
    text = _not_empty(where, name, repr(value) if isinstance(value, float) else str(value))
    if text.lower() == "nan":
        raise UserError(f"{where}: {name!r} is {text}, which programs write where there is nothing")
    return canonical(text)


def canonical(label: str) -> str:
    """A label as all files have it: 1, "1.", "+1" and "1e0" are 1; true, "True" and "TRUE" are true.

    With zeros in front it is a name, 007: who writes them wants them, and programs that write numbers do not.
    """
    if label.lower() in ("true", "false"):
        return label.lower()
    if not _NUMBER.fullmatch(label):
        return label
    unsigned = label.lstrip("+-")
    if unsigned.isdigit():  # of any length, to the last digit
        return label if label[0] == "-" and unsigned != "0" else unsigned
    value = float(label) + 0.0  # which makes 0.0 of -0.0
    if not math.isfinite(value):
        return label
    return format(Decimal(repr(value)), ".0f") if value.is_integer() else repr(value)


def label_reader(labels: Sequence[str]) -> Callable[[str, str, Any], str]:
    """What reads labels as `label_name` does; where `labels` are names, a whole number counts them from 0.

    The reader raises UserError for a number of `UNKNOWN`, and for one that could be meant otherwise.
    """
    names = tuple(map(canonical, labels))
    require(len(set(names)) == len(names), f"task.labels {tuple(labels)} has a number or truth value twice")

    def read(where: str, name: str, value: Any) -> str:
        label = label_name(where, name, value)
        if label in names or not is_number(label):
            return label
        what = f"{where}: {name!r} is {label}"
        if label in UNKNOWN:
            raise UserError(
                f"{what}, which stands for none; use a split that has labels, or name it in --task.labels"
            )
        return _counted(what, int(label), names) if names else label

    return read


def _counted(what: str, number: int, names: Sequence[str]) -> str:
    """The name that a number counts, from 0 on; UserError if there is none, or another one has the number."""
    if any(map(_NUMBER.fullmatch, names)):
        raise UserError(f"{what}, which is none of task.labels, but some of them are numbers: add it there")
    last = len(names) - 1
    if not 0 <= number <= last:
        raise UserError(
            f"{what}; labels are counted from 0 on, and the last of task.labels is {last}: count so, or "
            "write the names"
        )
    meant = next((name for name in names if _own_number(name) == number), None)
    if meant is not None and _own_number(names[number]) != number:
        raise UserError(
            f"{what}, which is {names[number]!r} as counted from 0 on, and may mean {meant!r}: write the "
            "names"
        )
    return names[number]


def _own_number(name: str) -> int | None:
    """The first number in a name, as 1 in "1 star"."""
    found = re.search(r"[0-9]{1,9}", name)
    return int(found[0]) if found else None


def is_number(label: str) -> bool:
    """Whether a label is a whole number."""
    return bool(re.fullmatch(r"-?(0|[1-9][0-9]{0,8})", label))


def _not_empty(where: str, name: str, value: str) -> str:
    text = sanitize(value).strip()
    if is_blank(text):
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
    """What to do about a column that is not there."""
    if labelled:
        return f"; choose one with --task.{flag}"
    return f"; choose one with --{OF_PREDICT.get(flag, flag)}"
