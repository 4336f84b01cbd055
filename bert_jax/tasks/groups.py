"""Examples of texts that belong together: an anchor, its positive, and any number of negatives.

Shapes in names: N rows, an example each; P texts of a row at most.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.config import GroupTaskConfig
from bert_jax.tasks import columns, records
from bert_jax.tasks.records import Empty
from data_pipeline.errors import UserError

FORMATS = {
    ".tsv": records.tsv,
    ".csv": records.csv_table,
    ".jsonl": records.json_lines,
}
"""How each kind of file is read."""

MOST_NEGATIVES = 32
"""Columns negative_1, negative_2 ... that are looked for."""

NO_TEXT = -1
"""In the place of a text that an example does not have."""


@dataclass(frozen=True)
class Texts:
    """Texts of one example."""

    where: str
    texts: tuple[str, ...]
    """The anchor, its positive and its negatives; fewer where they are to be predicted."""
    scores: tuple[float, ...] = ()
    """Of two texts, how alike they are. From a teacher, the positive's score less that of each negative."""
    is_labelled: bool = True
    """Whether the second text is known to go with the first."""


Make = Callable[..., Texts]
"""As `example`."""


def read(source: str, settings: GroupTaskConfig, make: Make, *, labelled: bool) -> list[Texts | Empty]:
    """The examples of a file or of TFDS: anchor, positive and negatives, as `make` takes them."""
    found = records.read(source, FORMATS, kind=settings.kind, columns=text_columns(settings))
    return list(
        records.examples(found, functools.partial(make, settings, labelled=labelled), labelled=labelled)
    )


def read_pairs(lines: Iterable[bytes], settings: GroupTaskConfig, make: Make) -> Iterator[Texts | Empty]:
    """An object a line of standard input, of two texts."""
    wanted = (settings.anchor, settings.positive)
    found = records.json_objects(records.STDIN, records.decoded(lines, records.STDIN), wanted=wanted)
    return records.examples(found, functools.partial(make, settings, labelled=False), labelled=False)


def example(settings: GroupTaskConfig, where: str, record: dict[str, Any], *, labelled: bool) -> Texts:
    """Anchor, positive and all negatives; without labels, the two texts whose score is asked for."""
    anchor = text(where, record, settings.anchor, "anchor", labelled=labelled)
    positive = text(where, record, settings.positive, "positive", labelled=labelled)
    others = negatives(where, record, settings) if labelled else ()
    return Texts(where, (anchor, positive, *others), is_labelled=labelled)


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


def check_compares(source: str, examples: Sequence[Texts]) -> None:
    """Raises UserError if no anchor has a text to tell its positives from: the loss would be 0."""
    texts = [example.texts for example in examples]
    known = {text for _, *others in texts for text in others}
    positives: dict[str, set[str]] = {}
    for anchor, positive, *_ in texts:
        positives.setdefault(anchor, {anchor}).add(positive)
    if all(known <= own for own in positives.values()):
        raise UserError(
            f"{source} has nothing to compare: each text is a copy of the anchor, or one of its positives; "
            "give more examples, or negatives"
        )


def packed(
    examples: Sequence[Texts], rows: Iterator[tuple[list[int], bool]], *, pad: int, columns: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """token_ids and segment_lengths, all texts of an example in one row; and `where` of those that were cut.

    Args:
      rows: ids of each text with its special pieces, and whether it was cut; in the order of the examples.
      columns: of a row; they suffice.
    """
    N, P = len(examples), max(len(example.texts) for example in examples)
    token_ids = np.full((N, columns), pad, np.int32)
    lengths = np.zeros((N, P, 2), np.int32)
    cut = []
    for n, example in enumerate(examples):
        end, is_cut = 0, False
        for p, (row, lost) in enumerate(itertools.islice(rows, len(example.texts))):
            token_ids[n, end : end + len(row)] = row
            lengths[n, p, 0] = len(row)
            end, is_cut = end + len(row), is_cut or lost
        if is_cut:
            cut.append(example.where)
    return {"token_ids": token_ids, "segment_lengths": lengths}, cut


def text_ids(examples: Sequence[Texts]) -> np.ndarray:
    """[N, P] int32, equal for equal texts; NO_TEXT where an example has no such text."""
    ids: dict[str, int] = {}
    found = np.full((len(examples), max(len(example.texts) for example in examples)), NO_TEXT, np.int32)
    for n, example in enumerate(examples):
        found[n, : len(example.texts)] = [ids.setdefault(text, len(ids)) for text in example.texts]
    return found
