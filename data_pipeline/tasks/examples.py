"""Examples of downstream tasks, as a person wrote them: from files or TFDS.

Whatever is wrong with one is said with its file and row.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import Head, TaskConfig


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


FORMATS = {
    "classification": ("tsv", "csv", "jsonl", "txt"),
    "regression": ("tsv", "csv", "jsonl", "txt"),
    "tokens": ("conll", "jsonl"),
    "qa": ("json", "jsonl"),
}
"""Of files, by their names; each may be packed, .gz. A .txt has no labels: a text a line, to be predicted."""

Row = tuple[str, Mapping[str, Any]]
"""Where, and the cells by column."""


def read(head: Head, source: str, task: TaskConfig, *, labelled: bool = True) -> list[Example]:
    """All examples of a file, or of `tfds:NAME:SPLIT`.

    Columns are those that `task` names; of qa they are Hugging Face's and TFDS's id, question, context and
    answers, {"text": [...], "answer_start": [...]}.

    Args:
      labelled: False leaves labels alone, there or not.

    Raises:
      FileNotFoundError, ValueError: there is no such file or dataset, or an example cannot be used.
    """
    rows = _of_tfds(source) if source.startswith("tfds:") else _of_file(head, source, task, labelled)
    examples: list[Example] = []
    for where, cells in rows:
        match head:
            case "classification" | "regression":
                examples.append(_text(head, where, cells, task, labelled))
            case "tokens":
                examples.append(_words(where, cells, task, labelled))
            case "qa":
                examples.append(_question(where, cells, labelled))
    if not examples:
        raise ValueError(f"{source} has no examples")
    seen: set[str] = set()
    for example in examples:
        if isinstance(example, Question):
            if example.id in seen:
                raise ValueError(f"{example.where}: the id {example.id!r} is there twice")
            seen.add(example.id)
    return examples


def _text(head: Head, where: str, cells: Mapping[str, Any], task: TaskConfig, labelled: bool) -> Text:
    text = _string(where, cells, task.text, flag="text")
    pair = None if task.pair is None else _string(where, cells, task.pair, flag="pair")
    if not labelled:
        return Text(where, text, pair)
    value = _cell(where, cells, task.label, flag="label")
    if head == "regression":
        return Text(where, text, pair, _number(where, value))
    if isinstance(value, float):
        raise ValueError(f"{where}: the label {value} is a number; for numbers use --model.head regression")
    if not str(value).strip():
        raise ValueError(f"{where}: the label is empty")
    return Text(where, text, pair, str(value).strip())


def _words(where: str, cells: Mapping[str, Any], task: TaskConfig, labelled: bool) -> Words:
    words = _strings(where, _cell(where, cells, task.text, flag="text"), what="words")
    if not labelled:
        return Words(where, words)
    labels = _strings(where, _cell(where, cells, task.label, flag="label"), what="labels")
    if len(labels) != len(words):
        raise ValueError(f"{where}: {len(words)} words have {len(labels)} labels")
    return Words(where, words, labels)


def _question(where: str, cells: Mapping[str, Any], labelled: bool) -> Question:
    question = _string(where, cells, "question", flag=None)
    context = _string(where, cells, "context", flag=None)
    name = str(cells["id"]) if "id" in cells else where
    if not labelled:
        return Question(where, name, question, context)
    answers = _cell(where, cells, "answers", flag=None)
    try:
        pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        found = tuple(Answer(str(text), int(start)) for text, start in pairs)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f'{where}: the answers of question {name} are not of the form {{"text": [...], '
            '"answer_start": [...]}'
        ) from error
    for answer in found:
        end = answer.start + len(answer.text)
        if not answer.text or answer.start < 0 or context[answer.start : end] != answer.text:
            raise ValueError(
                f"{where}: the answer {answer.text!r} of question {name} is not in its context at character "
                f"{answer.start}"
            )
    return Question(where, name, question, context, found)


def _cell(where: str, cells: Mapping[str, Any], column: str, *, flag: str | None) -> Any:
    if column not in cells:
        advice = f"; use --task.{flag}" if flag else ""
        raise ValueError(f"{where} has no column {column!r}; it has {', '.join(map(str, cells))}{advice}")
    return cells[column]


def _string(where: str, cells: Mapping[str, Any], column: str, *, flag: str | None) -> str:
    value = _cell(where, cells, column, flag=flag)
    if not isinstance(value, str) or not value.strip():
        what = "is empty" if isinstance(value, str) else f"is {value!r}, not a text"
        raise ValueError(f"{where}: the column {column!r} {what}")
    return value


def _strings(where: str, value: Any, *, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split()
    good = isinstance(value, list | tuple) and all(isinstance(item, str) and item.strip() for item in value)
    if not good or not value:
        raise ValueError(f"{where}: the {what} are {value!r}, not a list of words")
    return tuple(value)


def _number(where: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: the label {value!r} is not a finite number")
    return number


def _of_file(head: Head, source: str, task: TaskConfig, labelled: bool) -> Iterator[Row]:
    name = re.search(r"\.(\w+)(\.gz)?$", source)
    if name is None or name[1] not in FORMATS[head] or (name[1] == "txt" and labelled):
        known = ", ".join(f".{kind}" for kind in FORMATS[head] if kind != "txt" or not labelled)
        raise ValueError(
            f"{source}: for {head} the name must end in one of {known}, with .gz after it or not"
        )
    content = _content(source, packed=name[2] is not None)
    match name[1]:
        case "tsv" | "csv":
            return _of_table(source, content, tabs=name[1] == "tsv")
        case "jsonl":
            return _of_json_lines(source, content)
        case "json":
            return _of_squad(source, content)
        case "conll":
            return _of_conll(source, content, task, labelled)
        case _:
            lines = enumerate(content.splitlines(), 1)
            return ((f"{source} line {number}", {task.text: line}) for number, line in lines)


def _content(source: str, *, packed: bool) -> str:
    raw = Path(source).read_bytes()
    try:
        return (gzip.decompress(raw) if packed else raw).decode("utf-8-sig")
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{source}: not a whole compressed file ({error})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{source} line {line} is not UTF-8") from error


def _of_table(source: str, content: str, *, tabs: bool) -> Iterator[Row]:
    """The first line names the columns. In a .tsv quotes are plain characters, as in GLUE's files."""
    lines = content.splitlines(keepends=True) if not tabs else content.split("\n")
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    try:
        table = [row for row in csv.reader(lines, **form) if row]
    except csv.Error as error:
        raise ValueError(f"{source} is no table ({error})") from error
    columns = table[0] if table else []
    for number, row in enumerate(table[1:], 1):
        where = f"{source} row {number}"
        if len(row) != len(columns):
            raise ValueError(f"{where} has {len(row)} columns, the first line {len(columns)}")
        yield where, dict(zip(columns, row, strict=True))


def _of_json_lines(source: str, content: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{where} is not a JSON object")
        yield where, fields


def _of_squad(source: str, content: str) -> Iterator[Row]:
    """Rajpurkar et al. 2016 and 2018: articles of paragraphs of questions."""
    try:
        for article in json.loads(content)["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = asked.get("answers", [])
                    yield (
                        f"{source} question {asked['id']}",
                        {
                            "id": asked["id"],
                            "question": asked["question"],
                            "context": paragraph["context"],
                            "answers": {
                                "text": [answer["text"] for answer in answers],
                                "answer_start": [answer["answer_start"] for answer in answers],
                            },
                        },
                    )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} is not as SQuAD's files are ({error!r})") from error


def _of_conll(source: str, content: str, task: TaskConfig, labelled: bool) -> Iterator[Row]:
    """A word a line, its label in the last column; an empty line ends a sentence (Tjong Kim Sang 2003)."""
    held: list[list[str]] = []
    first = 1
    for number, line in enumerate([*content.split("\n"), ""], 1):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            if labelled and len(columns) < 2:
                raise ValueError(f"{source} line {number}: the word {columns[0]!r} has no label")
            first = first if held else number
            held.append(columns)
        elif held:
            words, labels = [row[0] for row in held], [row[-1] for row in held]
            yield f"{source} line {first}", {task.text: words, task.label: labels}
            held = []


def _of_tfds(source: str) -> Iterator[Row]:
    """A ClassLabel gives its name; -1, as GLUE's test splits have, is none."""
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix("tfds:").rpartition(":")
    if not name:
        raise ValueError(f"{source} is not of the form tfds:NAME:SPLIT")
    try:
        builder = tfds.builder(name, try_gcs=False)
        builder.download_and_prepare()
        examples = builder.as_dataset(split=split)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"{source}: {str(error).strip().splitlines()[0]}") from error
    for number, example in enumerate(examples.as_numpy_iterator(), 1):
        where = f"{source} record {number}"
        yield (
            where,
            {
                column: _plain(where, value, builder.info.features[column])
                for column, value in example.items()
            },
        )


def _plain(where: str, value: Any, feature: Any) -> Any:
    """A value of TFDS as JSON would have it."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(value, Mapping):
            return {
                name: _plain(where, part, tfds.features.Sequence(inner[name])) for name, part in value.items()
            }
        return [_plain(where, item, inner) for item in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return "" if value < 0 else feature.int2str(int(value))
    if isinstance(feature, tfds.features.Text):
        return value.decode()
    return value.item() if hasattr(value, "item") else value
