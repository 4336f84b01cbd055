"""Examples of downstream tasks, as a person wrote them: from files or TFDS.

Whatever is wrong with one is said with its file and row.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import Head, TaskConfig
from data_pipeline.corpus import mended


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


Record = tuple[str, dict[str, Any]]
"""An example as its source has it: where it is, and its columns."""


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
    records = _records(head, source, task, labelled)
    examples: list[Example]
    match head:
        case "classification" | "regression":
            examples = [_text(head, where, record, task, labelled) for where, record in records]
        case "tokens":
            examples = [_words(where, record, task, labelled) for where, record in records]
        case "qa":
            examples = [*_questions(records, labelled)]
    if not examples:
        raise ValueError(f"{source} has no examples")
    return examples


# Records to examples


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


# Sources to records


def _records(head: Head, source: str, task: TaskConfig, labelled: bool) -> Iterator[Record]:
    if source.startswith("tfds:"):
        return _tfds(head, source, task, labelled)
    match Path(source.removesuffix(".gz")).suffix, head:
        case ".tsv", "classification" | "regression":
            return _table(source, csv.reader(_lines(source), delimiter="\t", quoting=csv.QUOTE_NONE))
        case ".csv", "classification" | "regression":
            return _table(source, csv.reader(_lines(source), strict=True))
        case ".txt", "classification" | "regression" if not labelled:
            return _texts(source, task)
        case ".conll", "tokens":
            return _conll(source, task, labelled)
        case ".json", "qa":
            return _squad(source)
        case ".jsonl", _:
            return _json_lines(source)
    raise ValueError(
        f"{source!r} is no source of {head} examples; files are .tsv, .csv or .jsonl, to predict also .txt "
        "(classification, regression), .conll or .jsonl (tokens), .json or .jsonl (qa), each also .gz; or "
        "give tfds:NAME:SPLIT"
    )


def _lines(path: str) -> Iterator[str]:
    """With their line ends. Empty ones at the end of the file are nobody's example."""
    raw = Path(path).read_bytes()
    if path.endswith(".gz"):
        try:
            raw = gzip.decompress(raw)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: not a whole compressed file ({error})") from error
    raw = raw.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    for number, line in enumerate(io.BytesIO(raw), 1):
        yield _decode(line, f"{path} line {number}")


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not valid UTF-8 ({error.reason})") from error


def _table(path: str, rows: Any) -> Iterator[Record]:
    """From a csv.reader, whose first row names the columns."""
    where = f"{path} header"
    try:
        columns: list[str] = next(rows, [])
        if len(set(columns)) < len(columns):
            raise ValueError(f"{where} names a column twice: {', '.join(columns)}")
        for number in itertools.count(1):
            where = f"{path} row {number}"
            cells = next(rows, None)
            if cells is None:
                return
            if len(cells) != len(columns):
                raise ValueError(f"{where} has {len(cells)} cells; the header has {len(columns)}")
            yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{where} cannot be read: {error}") from error


def _texts(path: str, task: TaskConfig) -> Iterator[Record]:
    for number, line in enumerate(_lines(path), 1):
        yield f"{path} line {number}", {task.text: line.rstrip("\r\n")}


def _json_lines(path: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path} line {number}"
        if line.strip():
            record = _json(line, where)
            if not isinstance(record, dict):
                raise ValueError(f"{where}: not a JSON object")
            yield where, record


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error


def _conll(path: str, task: TaskConfig, labelled: bool) -> Iterator[Record]:
    """Sentences. Each is where its first word is."""
    # Not str.split(), which would split a word at its no-break space.
    rows = enumerate((re.findall(r"[^ \t\r\n]+", line) for line in _lines(path)), 1)
    width = 0
    for is_gap, group in itertools.groupby(rows, lambda row: row[1][:1] in ([], ["-DOCSTART-"])):
        if is_gap:
            continue
        sentence = list(group)
        start, first = sentence[0]
        width = width or max(2, len(first))
        for number, cells in sentence:
            if labelled and len(cells) != width:
                raise ValueError(f"{path} line {number}: a broken row of {len(cells)} columns, not {width}")
        columns = {task.label: [cells[-1] for _, cells in sentence], task.text: [c[0] for _, c in sentence]}
        yield f"{path} line {start}", columns


def _squad(path: str) -> Iterator[Record]:
    content = _json("".join(_lines(path)), path)
    try:
        records = [
            _flat(paragraph["context"], question)
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not have SQuAD's form, data[].paragraphs[].qas[] ({error})") from error
    for number, record in enumerate(records, 1):
        yield f"{path} row {number}", record


def _flat(context: str, question: dict[str, Any]) -> dict[str, Any]:
    """A question of SQuAD's tree, with the columns that Hugging Face and TFDS make of it."""
    record = {name: question[name] for name in ("id", "question") if name in question} | {"context": context}
    answers = [] if question.get("is_impossible") else question.get("answers")
    if answers is not None:
        record["answers"] = {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}
    return record


def _tfds(head: Head, source: str, task: TaskConfig, labelled: bool) -> Iterator[Record]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # which is JAX's
    fields = re.fullmatch(r"tfds:(?P<dataset>.+?):(?P<split>\w+(\[[^]]*\])?)", source)
    if fields is None:
        raise ValueError(f"{source} is not of the form tfds:NAME:SPLIT")
    try:
        builder = tfds.builder(fields["dataset"], try_gcs=False)
        builder.download_and_prepare()
        split = builder.as_dataset(split=fields["split"])
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"{source}: {str(error).strip().splitlines()[0]}") from error
    label = dict(builder.info.features).get(task.label)
    label = label.feature if isinstance(label, tfds.features.Sequence) else label
    wanted = ("id", "question", "context", "answers") if head == "qa" else (task.text, task.pair, task.label)
    for number, example in enumerate(split.as_numpy_iterator(), 1):
        where = f"{source} record {number}"
        record = {name: _plain(value, where) if name in wanted else None for name, value in example.items()}
        if labelled and task.label in wanted and isinstance(label, tfds.features.ClassLabel):
            record[task.label] = _class(label, record[task.label], where)
        yield where, record


def _plain(value: Any, where: str) -> Any:
    """What JSON would have in the place of NumPy's types."""
    match value:
        case bytes():
            return _decode(value, where)
        case np.ndarray():
            return [_plain(item, where) for item in value]
        case np.generic():
            return value.item()
        case dict():
            return {name: _plain(item, where) for name, item in value.items()}
    return value


def _class(label: Any, value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_class(label, item, where) for item in value]
    if value < 0:  # which int2str would take for the last class
        raise ValueError(f"{where}: the label is {value}, which stands for none; use a split that has labels")
    return label.int2str(value)
