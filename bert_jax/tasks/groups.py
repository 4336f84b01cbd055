"""Examples of texts that belong together: an anchor, its positive, and any number of negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bert_jax.config import GroupTaskConfig
from bert_jax.tasks import columns, records

FORMATS = {
    ".tsv": records.tsv,
    ".csv": records.csv_table,
    ".jsonl": records.json_lines,
}
"""How each kind of file is read."""

MOST_NEGATIVES = 32
"""Columns negative_1, negative_2 ... that are looked for."""


@dataclass(frozen=True)
class Texts:
    """Texts of one example."""

    where: str
    texts: tuple[str, ...]
    """The anchor, its positive and its negatives; fewer where they are to be predicted."""
    scores: tuple[float, ...] = ()
    """Of two texts, how alike they are. From a teacher, the positive's score less that of each negative."""


def text_columns(settings: GroupTaskConfig) -> tuple[str, ...]:
    """The columns of texts that a record may have."""
    return settings.anchor, settings.positive, *_negative_columns(settings)


def _negative_columns(settings: GroupTaskConfig) -> list[str]:
    name = settings.negative
    return [name, *(f"{name}_{number}" for number in range(1, MOST_NEGATIVES + 1))]


def text(where: str, record: dict[str, Any], name: str, flag: str, *, labelled: bool) -> str:
    """The text of a column that --task.FLAG names; raises UserError as `columns.string` does."""
    return columns.string(where, record, name, columns.advice(flag, labelled=labelled))


def negatives(where: str, record: dict[str, Any], settings: GroupTaskConfig) -> tuple[str, ...]:
    """All there are: a column has one, a list of them, or none."""
    found: list[str] = []
    for name in _negative_columns(settings):
        value = record.get(name)
        if value is None or value == "":
            continue
        texts = value if isinstance(value, list) else [value]
        found += [columns.string(where, {name: text}, name) for text in texts]
    return tuple(found)
