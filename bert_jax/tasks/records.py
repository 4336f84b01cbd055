"""Files and TFDS -> records: the columns of each example as they are written, and where it is."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from data_pipeline.compression import PACKINGS, kind_of, unpacked
from data_pipeline.errors import EmptyError, UserError

Record = tuple[str, dict[str, Any]]
"""Where an example is, and its columns; without any, the row or line has nothing in it."""

Format = Callable[[str], Iterator[Record]]
"""A path -> the records of the file."""


class Empty(NamedTuple):
    """In place of an example that is to be predicted, and has nothing in it."""

    where: str
    reason: str


Example = TypeVar("Example")

STDIN = "standard input"
"""What messages call lines that come from no file."""

csv.field_size_limit(2**31 - 1)  # a text may be longer than the 131,072 characters that csv has as its limit


def read(
    source: str,
    formats: Mapping[str, Format],
    *,
    kind: str,
    columns: Sequence[str | None],
    label: str | None = None,
) -> list[Record]:
    """All records of a source, in its order, but for those at its end that have nothing in them.

    Args:
      source: a file, packed or not, or tfds:NAME:SPLIT.
      formats: how the task reads each kind of file, by its ending.
      kind: of the task, for messages.
      columns: those that are wanted of TFDS.
      label: the column of class labels in TFDS, which become their names; None: they are not looked at.

    Raises:
      FileNotFoundError, UserError: one line, with file and row. Rows do not count the header; lines do.
    """
    if source.startswith("tfds:"):
        found = list(_tfds(source, columns, label))
    else:
        ending = kind_of(source)
        if ending not in formats:
            raise UserError(
                f"{source!r} is no source of {kind} examples; files are {', '.join(formats)}, each also "
                f"{', '.join(PACKINGS)}; or give tfds:NAME:SPLIT"
            )
        found = list(formats[ending](source))
    while found and not found[-1][1]:
        found.pop()
    if not found:
        raise UserError(f"{source} has no examples")
    return found


def examples(
    found: Iterable[Record], make: Callable[[str, dict[str, Any]], Example], *, labelled: bool
) -> Iterator[Example | Empty]:
    """What `make` makes of each record that has something in it.

    Without labels, the empty ones have a place too, and a column that was there before is empty where it is
    missing: the others are to be predicted nevertheless.
    """
    seen: dict[str, None] = {}
    for where, record in found:
        if not record:
            if not labelled:
                yield Empty(where, f"{where} is empty")
            continue
        if not labelled:
            seen |= dict.fromkeys(record)
        try:
            yield make(where, seen | record)
        except EmptyError as error:
            if labelled:
                raise
            yield Empty(where, str(error))


def filled(found: Iterable[Record]) -> Iterator[Record]:
    """Those that have something in them."""
    return ((where, record) for where, record in found if record)


def tsv(path: str) -> Iterator[Record]:
    """A table with a header; a quote is a character like any other."""
    return _table(path, (_without_returns(line).rstrip("\r\n").split("\t") for line in lines_of(path)))


def csv_table(path: str) -> Iterator[Record]:
    """A table with a header."""
    return _table(path, csv.reader(map(_without_returns, lines_of(path)), strict=True))


def _without_returns(line: str) -> str:
    """A carriage return inside a line is a space; csv would see the end of a row."""
    text = line.rstrip("\r\n")
    return text.replace("\r", " ") + line[len(text) :]


def json_lines(path: str) -> Iterator[Record]:
    """A JSON object a line."""
    return json_objects(path, lines_of(path))


def text_lines(column: str) -> Format:
    """A text a line, which is the column of that name."""
    return lambda path: texts(path, lines_of(path), column)


def texts(source: str, lines: Iterable[str], column: str) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        yield f"{source} line {number}", {column: _without_returns(line).rstrip("\r\n")}


def json_objects(source: str, lines: Iterable[str], *, wanted: Sequence[str] = ()) -> Iterator[Record]:
    """An object a line, and an empty one for a line without any.

    Args:
      wanted: columns that a message about a line that is none should name.
    """
    form = ", ".join(f'"{column}": "..."' for column in wanted)
    advice = f"; the model wants an object a line, {{{form}}}" if wanted else ""
    for number, line in enumerate(lines, 1):
        where = f"{source} line {number}"
        record = parse_json(line, where, advice) if line.strip() else {}
        if not isinstance(record, dict):
            raise UserError(f"{where}: not a JSON object{advice}")
        yield where, record


def parse_json(text: str, where: str, advice: str = "") -> Any:
    """Raises UserError, with `where` and `advice`, if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}){advice}") from error


def lines_of(path: str) -> Iterator[str]:
    """The lines of a file, packed or not, with their ends. Empty ones at its end are nobody's example.

    Raises:
      FileNotFoundError, UserError: it is not there, not whole or not UTF-8.
    """
    with open(path, "rb") as file, unpacked(path, file) as content:
        raw = content.read()
    yield from decoded(io.BytesIO(raw.rstrip(b"\r\n")), path)


def decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    """The text, without a byte order mark. A UserError for what is not UTF-8 names `source` and the line.

    Where one line is all there is, as in a file of an old Mac, carriage returns end lines.
    """
    for number, line in enumerate(_without_old_mac(iter(lines)), 1):
        raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield _decode(raw, f"{source} line {number}")


def _without_old_mac(lines: Iterator[bytes]) -> Iterator[bytes]:
    for first in itertools.islice(lines, 1):
        text = first.rstrip(b"\r\n")
        second = list(itertools.islice(lines, 1)) if b"\r" in text else [b""]
        yield from [first] if second else (part + b"\n" for part in text.split(b"\r"))
        yield from filter(None, second)
    yield from lines


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid UTF-8 ({error.reason})") from error


def _table(path: str, rows: Any) -> Iterator[Record]:
    """The records of rows of cells, of which the first one with something in it names the columns.

    A row of empty cells has nothing in it. Nor have cells behind the last column with a name: spreadsheets
    write such.
    """
    where = f"{path} header"
    try:
        columns: list[str] = next(filter(_has_text, rows), [])
        while columns and _is_blank(columns[-1]):
            columns.pop()
        if len(set(columns)) < len(columns):
            raise UserError(f"{where} names a column twice: {', '.join(columns)}")
        for number in itertools.count(1):
            where = f"{path} row {number}"
            cells = next(rows, None)
            if cells is None:
                return
            if not _has_text(cells):
                yield where, {}
                continue
            if len(cells) < len(columns) or _has_text(cells[len(columns) :]):
                raise UserError(f"{where}: a row of {len(cells)} where the header has {len(columns)}")
            yield where, dict(zip(columns, cells, strict=False))
    except csv.Error as error:  # by strict=True: a quote that never ends, or one in the middle of a cell
        raise UserError(f"{where} cannot be read: {error}") from error


def _has_text(cells: list[str]) -> bool:
    return not all(map(_is_blank, cells))


def _is_blank(cell: str) -> bool:
    return not cell.strip()


def _tfds(source: str, columns: Sequence[str | None], label: str | None) -> Iterator[Record]:
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
    feature = dict(builder.info.features).get(label)
    feature = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    for number, example in enumerate(split.as_numpy_iterator(), 1):
        where = f"{source} record {number}"
        record = {name: _plain(value, where) if name in columns else None for name, value in example.items()}
        if label is not None and isinstance(feature, tfds.features.ClassLabel):
            record[label] = _class_name(feature, record[label], where)
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


def _class_name(feature: Any, value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_class_name(feature, item, where) for item in value]
    if value < 0:  # which int2str would take for the last class
        raise UserError(f"{where}: the label is {value}, which stands for none; use a split that has labels")
    return feature.int2str(value)
