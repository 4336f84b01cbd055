"""Files and TFDS -> records: each example's columns as they are written, and where it is."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import Head, TaskConfig
from data_pipeline.errors import UserError

Record = tuple[str, dict[str, Any]]
"""Where an example is, and its columns."""

TYPED = "standard input"
"""What messages call lines that come from no file."""


def records(head: Head, source: str, task: TaskConfig, labelled: bool) -> Iterator[Record]:
    """Of a source, in its order; see `examples.read`, which checks what is in the columns."""
    if source.startswith("tfds:"):
        return _tfds(head, source, task, labelled)
    match Path(source.removesuffix(".gz")).suffix, head:
        case ".tsv", "classification" | "regression":
            return _table(source, csv.reader(lines_of(source), delimiter="\t", quoting=csv.QUOTE_NONE))
        case ".csv", "classification" | "regression":
            return _table(source, csv.reader(lines_of(source), strict=True))
        case ".txt", "classification" | "regression" if not labelled:
            return _texts(source, lines_of(source), task)
        case ".conll", "tokens":
            return _conll(source, task, labelled)
        case ".json", "qa":
            return _squad(source)
        case ".jsonl", _:
            return _json_lines(source, lines_of(source))
    raise UserError(
        f"{source!r} is no source of {head} examples; files are .tsv, .csv or .jsonl, to predict also .txt "
        "(classification, regression), .conll or .jsonl (tokens), .json or .jsonl (qa), each also .gz; or "
        "give tfds:NAME:SPLIT"
    )


def typed_records(head: Head, lines: Iterable[bytes], task: TaskConfig) -> Iterator[Record]:
    """Of lines that are written to be predicted: a text, or words with spaces between them; for qa and for
    pairs a JSON object with a column each.
    """
    text = decoded(lines, TYPED)
    columns = ("question", "context") if head == "qa" else (task.text, task.pair)
    if head == "tokens" or None in columns:
        return _texts(TYPED, text, task)
    form = ", ".join(f'"{column}": "..."' for column in columns)
    return _json_lines(TYPED, text, wanted=f"; the model wants an object a line, {{{form}}}")


def lines_of(path: str) -> Iterator[str]:
    """Of a file, .gz or not, with their line ends. Empty ones at its end are nobody's example.

    Raises:
      FileNotFoundError, UserError: it is not there, not whole or not UTF-8.
    """
    raw = Path(path).read_bytes()
    if path.endswith(".gz"):
        try:
            raw = gzip.decompress(raw)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path}: not a whole compressed file ({error})") from error
    yield from decoded(io.BytesIO(raw.rstrip(b"\r\n")), path)


def decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    """Without a byte order mark. A UserError for what is not UTF-8 names `source` and the line."""
    for number, line in enumerate(lines, 1):
        raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield _decode(raw, f"{source} line {number}")


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid UTF-8 ({error.reason})") from error


def _table(path: str, rows: Any) -> Iterator[Record]:
    """From a csv.reader, whose first row names the columns."""
    where = f"{path} header"
    try:
        columns: list[str] = next(rows, [])
        if len(set(columns)) < len(columns):
            raise UserError(f"{where} names a column twice: {', '.join(columns)}")
        for number in itertools.count(1):
            where = f"{path} row {number}"
            cells = next(rows, None)
            if cells is None:
                return
            if len(cells) != len(columns):
                raise UserError(f"{where} has {len(cells)} cells; the header has {len(columns)}")
            yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{where} cannot be read: {error}") from error


def _texts(source: str, lines: Iterable[str], task: TaskConfig) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        yield f"{source} line {number}", {task.text: line.rstrip("\r\n")}


def _json_lines(source: str, lines: Iterable[str], *, wanted: str = "") -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        where = f"{source} line {number}"
        if line.strip():
            record = _json(line, where, wanted)
            if not isinstance(record, dict):
                raise UserError(f"{where}: not a JSON object{wanted}")
            yield where, record


def _json(text: str, where: str, wanted: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}){wanted}") from error


def _conll(path: str, task: TaskConfig, labelled: bool) -> Iterator[Record]:
    """Sentences. Each is where its first word is."""
    # Not str.split(), which would split a word at its no-break space.
    rows = enumerate((re.findall(r"[^ \t\r\n]+", line) for line in lines_of(path)), 1)
    width = 0
    for is_gap, group in itertools.groupby(rows, lambda row: row[1][:1] in ([], ["-DOCSTART-"])):
        if is_gap:
            continue
        sentence = list(group)
        start, first = sentence[0]
        width = width or max(2, len(first))
        for number, cells in sentence:
            if labelled and len(cells) != width:
                raise UserError(f"{path} line {number}: a broken row of {len(cells)} columns, not {width}")
        columns = {task.label: [cells[-1] for _, cells in sentence], task.text: [c[0] for _, c in sentence]}
        yield f"{path} line {start}", columns


def _squad(path: str) -> Iterator[Record]:
    content = _json("".join(lines_of(path)), path)
    try:
        records = [
            _flat(paragraph["context"], question)
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not have SQuAD's form, data[].paragraphs[].qas[] ({error})") from error
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
        raise UserError(f"{source} is not of the form tfds:NAME:SPLIT")
    try:
        builder = tfds.builder(fields["dataset"], try_gcs=False)
        builder.download_and_prepare()
        split = builder.as_dataset(split=fields["split"])
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, KeyError) as error:
        raise UserError(f"{source}: {str(error).strip().splitlines()[0]}") from error
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
        raise UserError(f"{where}: the label is {value}, which stands for none; use a split that has labels")
    return label.int2str(value)
