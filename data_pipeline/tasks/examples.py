"""Examples of downstream tasks, as a person wrote them: from files or TFDS.

Whatever is wrong with one is said with its file and row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_pipeline.config import Head, TaskConfig
from data_pipeline.corpus import mended
from data_pipeline.tasks.records import Record, records


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
      FileNotFoundError, ValueError: one line, with file and row. Rows do not count the header; lines do.
    """
    found = records(head, source, task, labelled)
    examples: list[Example]
    match head:
        case "classification" | "regression":
            examples = [_text(head, where, record, task, labelled) for where, record in found]
        case "tokens":
            examples = [_words(where, record, task, labelled) for where, record in found]
        case "qa":
            examples = [*_questions(found, labelled)]
    if not examples:
        raise ValueError(f"{source} has no examples")
    return examples


def _text(head: Head, where: str, record: dict[str, Any], task: TaskConfig, labelled: bool) -> Text:
    text = _string(where, record, task.text, flag="text")
    pair = None if task.pair is None else _string(where, record, task.pair, flag="pair")
    if not labelled:
        return Text(where, text, pair)
    label = _column(where, record, task.label, flag="label")
    as_label = _number if head == "regression" else _name
    return Text(where, text, pair, as_label(where, task.label, label))


def _words(where: str, record: dict[str, Any], task: TaskConfig, labelled: bool) -> Words:
    value = _column(where, record, task.text, flag="text")
    if isinstance(value, str) and not labelled:
        value = value.split()
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{where}: {task.text!r} is not a list of words")
    words = tuple(map(mended, value))
    if not words or not all(word.strip() for word in words):
        raise ValueError(f"{where}: {task.text!r} has {'an empty word' if words else 'no words'}")
    if not labelled:
        return Words(where, words)
    labels = _column(where, record, task.label, flag="label")
    if not isinstance(labels, list):
        raise ValueError(f"{where}: {task.label!r} is not a list of labels")
    if len(labels) != len(words):
        raise ValueError(f"{where} has {len(words)} words and {len(labels)} labels")
    return Words(where, words, tuple(_name(where, task.label, label) for label in labels))


def _questions(records: Iterator[Record], labelled: bool) -> Iterator[Question]:
    seen: dict[str, str] = {}
    for number, (where, record) in enumerate(records, 1):
        name = _name(where, "id", record["id"]) if "id" in record else str(number)
        if name in seen:
            raise ValueError(f"{where}: the id {name!r} is that of {seen[name]} too")
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
            raise ValueError(
                f"{where}: 'answers' is not {{'text': [...], 'answer_start': [...]}} with as many of each"
            )
    for text, start in pairs:
        if not isinstance(text, str) or not mended(text).strip():
            raise ValueError(f"{where}: the answer {text!r} is no text")
        if type(start) is not int or start < 0 or not context.startswith(text, start):
            raise ValueError(f"{where}: the answer {text!r} is not at character {start!r} of the context")
        # Starts were counted before the context was mended, which may have made it shorter.
        yield Answer(mended(text), len(mended(context[:start])))


def _column(where: str, record: dict[str, Any], name: str, *, flag: str | None = None) -> Any:
    if name not in record:
        choose = f"; choose one with --task.{flag}" if flag else ""
        raise ValueError(f"{where} has no column {name!r}; it has {', '.join(record)}{choose}")
    return record[name]


def _string(where: str, record: dict[str, Any], name: str, *, flag: str | None = None) -> str:
    value = _column(where, record, name, flag=flag)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name!r} is {value!r}, not a text")
    text = mended(value)
    if not text.strip():
        raise ValueError(f"{where}: {name!r} is empty")
    return text


def _name(where: str, column: str, value: Any) -> str:
    """A label or an id. No float: 1 and 1.0 would be two labels."""
    if not isinstance(value, str | int):  # which a bool is
        raise ValueError(f"{where}: {column!r} is {value!r}, neither a string nor a whole number")
    name = mended(str(value)).strip()
    if not name:
        raise ValueError(f"{where}: {column!r} is empty")
    return name


def _number(where: str, column: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {column!r} is {value!r}, not a finite number")
    return number
