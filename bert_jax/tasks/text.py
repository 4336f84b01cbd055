"""What the tasks on a text, or on two, have in common: their examples, and the rows made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.config import TextTaskConfig
from bert_jax.tasks import columns, records
from bert_jax.tasks.features import Features, make_arrays
from bert_jax.tasks.pieces import Pieces
from bert_jax.tasks.records import Empty
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

FORMATS = {
    ".tsv": records.tsv,
    ".csv": records.csv_table,
    ".jsonl": records.json_lines,
}
"""How each kind of file is read."""


Label = str | float | tuple[str, ...]
"""One, a number for regression, or several."""


@dataclass(frozen=True)
class Text:
    """A text, or a pair, to classify or to give a number."""

    where: str
    text: str
    pair: str | None = None
    label: Label | None = None
    """None: unknown, it is to be predicted."""


def read(
    source: str,
    settings: TextTaskConfig,
    *,
    labelled: bool,
    as_label: Callable[[str, str, Any], Label],
) -> list[Text | Empty]:
    """The examples of a source, in its order.

    Args:
      labelled: False to predict: labels are not looked at, .txt is a text a line, and what is empty has a
        place.
      as_label: checks a label: (where, column, value) -> the label.

    Raises:
      FileNotFoundError, UserError: one line, with file and row. Rows do not count the header; lines do.
    """
    formats = FORMATS if labelled else FORMATS | {".txt": records.text_lines(settings.text)}
    wanted = (settings.text, settings.pair, settings.label)
    found = records.read(
        source, formats, kind=settings.kind, columns=wanted, label=settings.label if labelled else None
    )
    make = functools.partial(_example, settings=settings, as_label=as_label if labelled else None)
    return list(records.examples(found, make, labelled=labelled))


def read_stdin(lines: Iterable[bytes], settings: TextTaskConfig) -> Iterator[Text | Empty]:
    """The examples that lines of standard input are: a text each, or a JSON object where there is a pair.

    Raises:
      UserError: one line, as `read` has it, with the line of standard input.
    """
    text = records.decoded(lines, records.STDIN)
    if settings.pair is None:
        found = records.texts(records.STDIN, text, settings.text)
    else:
        found = records.json_objects(records.STDIN, text, wanted=(settings.text, settings.pair))
    make = functools.partial(_example, settings=settings, as_label=None)
    return records.examples(found, make, labelled=False)


def example(text: str, pair: str | None, settings: TextTaskConfig) -> Text:
    """One that is typed, to be explained."""
    if settings.pair is not None and pair is None:
        raise UserError(f"the model was trained on pairs: give {settings.pair!r} with --pair")
    return Text("the text", text, pair)


def _example(
    where: str,
    record: dict[str, Any],
    *,
    settings: TextTaskConfig,
    as_label: Callable[[str, str, Any], Label] | None,
) -> Text:
    def advice(flag: str) -> str:
        return columns.advice(flag, labelled=as_label is not None)

    may_be_pairs = as_label is None and settings.pair is None  # a model of others does not tell
    or_two = ", and a second text with --pair" if may_be_pairs else ""
    text = columns.string(where, record, settings.text, advice("text") + or_two)
    pair = None if settings.pair is None else columns.string(where, record, settings.pair, advice("pair"))
    if as_label is None:
        return Text(where, text, pair)
    label = columns.column(where, record, settings.label, advice("label"))
    return Text(where, text, pair, as_label(where, settings.label, label))


def featurize(examples: Sequence[Text], tokenizer: Tokenizer, *, sequence_length: int) -> Features:
    """A row an example, without labels. Texts that are too long are cut, the longer of a pair first."""
    S, pieces = sequence_length, Pieces(tokenizer)
    rows: list[tuple[list[int], list[int] | None]] = []
    cut = []
    firsts = pieces.of_texts([example.text for example in examples])
    seconds = pieces.of_texts([example.pair or "" for example in examples])
    for example, first, second in zip(examples, firsts, seconds, strict=True):
        if example.pair is None:
            kept, kept_second = min(len(first), S - pieces.alone.size), 0
        else:
            kept, kept_second = longest_first(len(first), len(second), room=S - pieces.paired.size)
        rows.append((first[:kept], None if example.pair is None else second[:kept_second]))
        if kept + kept_second < len(first) + len(second):
            cut.append(example.where)
    arrays = make_arrays(rows, pieces, S=S)
    return Features(arrays, np.arange(len(rows), dtype=np.int32), np.zeros((len(rows), 0), np.int32), cut)


def longest_first(first: int, second: int, *, room: int) -> tuple[int, int]:
    """Lengths that a pair keeps: the longer text is cut to the other's length, then both to half the room.

    The odd token goes to the longer text, of two equal ones to the second (Hugging Face's `longest_first`).
    """
    shorter = min(first, second, room // 2)
    longer = min(max(first, second), room - shorter)
    return (longer, shorter) if first > second else (shorter, longer)
