"""Examples of downstream tasks, as a person wrote them: from files or TFDS.

Whatever is wrong with one is said with its file and row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.tasks.records import Record, records, typed_records
from data_pipeline.config import Head, TaskConfig
from data_pipeline.corpus import mended
from data_pipeline.errors import UserError


@dataclass(frozen=True)
class Text:
    """To classify, or to give a number."""

    where: str
    """`file.tsv row 7`, for messages. Rows count from 1, the header is none."""
    text: str
    pair: str | None = None
    label: str | float | None = None
    """A float for regression. None: unknown, it is to be predicted."""


@dataclass(frozen=True)
class Words:
    """A sentence, each of whose words has a label."""

    where: str
    words: tuple[str, ...]
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    text: str
    start: int
    """Character of the context with which it begins."""


@dataclass(frozen=True)
class Question:
    """About a context that has the answer, or not."""

    where: str
    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None = None
    """Several people's answers; () where the context has none. None: unknown, it is to be predicted."""


Example = Text | Words | Question

LARGEST = float(np.finfo(np.float32).max)
"""Number that can be learned."""


def read(head: Head, source: str, task: TaskConfig, *, labelled: bool = True) -> list[Example]:
    """The examples of `source`, in its order.

    Args:
      head: classification and regression give Text, tokens gives Words, qa gives Question.
      source: a file, .gz or not, or tfds:NAME:SPLIT.
        .tsv (no quoting: a quote is a character) and .csv, with a header line: classification, regression.
        .jsonl, an object a line: all heads. Words are a list, as their labels are.
        .conll, a word a line, its label in the last column, an empty line between sentences: tokens.
        .json in SQuAD's form, version 1.1 or 2: qa.
        .txt, a text a line: classification and regression, if not `labelled`.
      task: names the columns `text`, `pair` and `label`. For qa they are always `id` (the row if there is
        none), `question`, `context` and `answers` (`{"text": [...], "answer_start": [...]}`).
      labelled: False to predict: labels and answers are not looked at, and words may be one string.

    Raises:
      FileNotFoundError, UserError: one line, with file and row. Rows do not count the header; lines do.
    """
    examples = [*_checked(head, records(head, source, task, labelled), task, labelled)]
    if not examples:
        raise UserError(f"{source} has no examples")
    return examples


def read_typed(head: Head, lines: Iterable[bytes], task: TaskConfig) -> Iterator[Example]:
    """The examples that lines of standard input are, one after the other, to predict.

    Args:
      lines: a text, or words with spaces between them; for qa and with `task.pair` a JSON object with the two
        columns.

    Raises:
      UserError: one line, as `read` has it, with the line of standard input.
    """
    return _checked(head, typed_records(head, lines, task), task, labelled=False)


def _checked(head: Head, found: Iterator[Record], task: TaskConfig, labelled: bool) -> Iterator[Example]:
    match head:
        case "classification" | "regression":
            return (_text(head, where, record, task, labelled) for where, record in found)
        case "tokens":
            return (_words(where, record, task, labelled) for where, record in found)
        case "qa":
            return _questions(found, labelled)


def _text(head: Head, where: str, record: dict[str, Any], task: TaskConfig, labelled: bool) -> Text:
    text = _string(where, record, task.text, _advice("text", labelled))
    pair = None if task.pair is None else _string(where, record, task.pair, _advice("pair", labelled))
    if not labelled:
        return Text(where, text, pair)
    label = _column(where, record, task.label, _advice("label", labelled))
    as_label = _number if head == "regression" else _name
    return Text(where, text, pair, as_label(where, task.label, label))


def _words(where: str, record: dict[str, Any], task: TaskConfig, labelled: bool) -> Words:
    value = _column(where, record, task.text, _advice("text", labelled))
    if isinstance(value, str) and not labelled:
        value = mended(value).split()
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UserError(f"{where}: {task.text!r} is not a list of words")
    words = tuple(map(mended, value))
    if not words or not all(word.strip() for word in words):
        raise UserError(f"{where}: {task.text!r} has {'an empty word' if words else 'no words'}")
    if not labelled:
        return Words(where, words)
    labels = _column(where, record, task.label, _advice("label", labelled))
    if not isinstance(labels, list):
        raise UserError(f"{where}: {task.label!r} is not a list of labels")
    if len(labels) != len(words):
        raise UserError(f"{where} has {len(words)} words and {len(labels)} labels")
    return Words(where, words, tuple(_name(where, task.label, label) for label in labels))


def _questions(records: Iterator[Record], labelled: bool) -> Iterator[Question]:
    seen: dict[str, str] = {}
    for number, (where, record) in enumerate(records, 1):
        name = _name(where, "id", record["id"]) if "id" in record else str(number)
        if name in seen:
            raise UserError(f"{where}: the id {name!r} is that of {seen[name]} too")
        seen[name] = where
        asked = f"{where}, question {name!r}"
        question = _string(asked, record, "question")
        context = _string(asked, record, "context")
        answers = None
        if labelled:
            answers = tuple(_answers(asked, _column(asked, record, "answers"), record["context"]))
        yield Question(where, name, question, context, answers)


def _answers(where: str, value: Any, context: str) -> Iterator[Answer]:
    match value:
        case {"text": list(texts), "answer_start": list(starts)} if len(texts) == len(starts):
            pairs = zip(texts, starts, strict=True)
        case _:
            raise UserError(
                f"{where}: 'answers' is not {{'text': [...], 'answer_start': [...]}} with as many of each"
            )
    for text, start in pairs:
        if not isinstance(text, str) or not mended(text).strip():
            raise UserError(f"{where}: the answer {text!r} is no text")
        if type(start) is not int or start < 0 or not context.startswith(text, start):
            raise UserError(f"{where}: the answer {text!r} is not at character {start!r} of the context")
        # Starts were counted before the context was mended, which may have made it shorter.
        yield Answer(mended(text), len(mended(context[:start])))


def _advice(flag: str, labelled: bool) -> str:
    """On a column that is not there. A model that is to predict was trained, and has no choice any more."""
    if labelled:
        return f"; choose one with --task.{flag}"
    return "; the model was trained on a column of that name"


def _column(where: str, record: dict[str, Any], name: str, advice: str = "") -> Any:
    if name not in record:
        raise UserError(f"{where} has no column {name!r}; it has {', '.join(record)}{advice}")
    return record[name]


def _string(where: str, record: dict[str, Any], name: str, advice: str = "") -> str:
    value = _column(where, record, name, advice)
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} is {value!r}, not a text")
    text = mended(value)
    if not text.strip():
        raise UserError(f"{where}: {name!r} is empty")
    return text


def _name(where: str, column: str, value: Any) -> str:
    """A label or an id. No float: 1 and 1.0 would be two labels."""
    if not isinstance(value, str | int):  # which a bool is
        raise UserError(f"{where}: {column!r} is {value!r}, neither a string nor a whole number")
    name = mended(str(value)).strip()
    if not name:
        raise UserError(f"{where}: {column!r} is empty")
    return name


def _number(where: str, column: str, value: Any) -> float:
    try:
        number = np.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not abs(number) <= LARGEST:
        raise UserError(f"{where}: {column!r} is {value!r}, not a finite number of 32 bits")
    return number
