"""Sources of text: a stream of documents, each a list of lines, in bounded memory.

Owns reading, splitting by document and mending what no tokenizer should see. Does not tokenize.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import glob
import hashlib
import io
import json
import math
import re
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_pipeline import line_ends, parquet
from data_pipeline.compression import PACKINGS, is_packed, kind_of, unpacked
from data_pipeline.errors import UserError
from data_pipeline.storage import remote, store

MAX_LINE = 100_000
"""Bytes of a text file, characters elsewhere. A longer line is cut here: it never fills the memory."""
MAX_DOCUMENT = 1_000_000
"""Characters. A longer document is cut here, and is several documents from then on."""

KEY_BITS = 63
"""A key is a hash of this many bits: it fits a signed integer of a database."""


class Document(NamedTuple):
    key: int
    """Hash of the text: equal documents have equal keys."""
    lines: list[str]

    @property
    def characters(self) -> int:
        return sum(map(len, self.lines))


Reader = Callable[[], Iterator[Document]]
"""Reads a part of a source, in any process."""

TEXT_FIELD = "text"
"""What most corpora call the field that holds the text."""


def documents(source: str, *, text_field: str = TEXT_FIELD) -> Iterator[Document]:
    """Streams the documents of `source` that have text, see `readers`."""
    for reader in readers(source, text_field=text_field):
        yield from (document for document in reader() if document.lines)


def readers(source: str, *, text_field: str = TEXT_FIELD) -> list[Reader]:
    """Functions that read `source` a part each; called in turn, they give it in order.

    `files:GLOB` reads .txt (a sentence or paragraph a line, a blank line between documents), .jsonl (a
    document a line, in its `text_field`), both plain or compressed, and .parquet (a document a row, in that
    column), from a disk or a bucket (gs://, through the library that TFDS uses);
    `tfds:NAME[:SPLIT[:FEATURE]]` reads a text feature of a TFDS dataset; `builtin:python-docs` reads the
    documentation of the running Python.

    A document whose text is null or empty has no lines: it is there to be counted.

    Raises:
      UserError: the source is unknown or missing; a reader raises it for text that is not UTF-8 or not
        JSON. It says where.
    """
    kind, _, name = source.partition(":")
    match kind:
        case "files":
            return [functools.partial(_read_file, path, text_field) for path in _paths(name)]
        case "tfds":
            return _tfds_readers(name)
        case "builtin" if name == "python-docs":
            return [_read_python_docs]
    raise UserError(
        f"data.source {source!r} is unknown; use files:GLOB, tfds:NAME[:SPLIT[:FEATURE]] or "
        "builtin:python-docs"
    )


def in_validation(document: Document, *, fraction: float, seed: int) -> bool:
    """Whether a document is held out: a hash of its key and the seed, not its place in the corpus."""
    key = document.key.to_bytes(8, "big")
    digest = hashlib.blake2b(key, digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _group(lines: Iterable[str]) -> Iterator[Document]:
    """Documents from lines, where an empty line ends a document."""
    held: list[str] = []
    size = 0
    for line in lines:
        if line:
            held.append(line)
            size += len(line)
        if held and (not line or size >= MAX_DOCUMENT):
            yield _document(held)
            held, size = [], 0
    if held:
        yield _document(held)


def _document(lines: list[str]) -> Document:
    digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=8).digest()
    return Document(int.from_bytes(digest, "big") >> (64 - KEY_BITS), lines)


NO_TEXT = _document([])

KINDS = (".txt", ".jsonl", ".parquet")
"""Of files, by the endings of their names."""


def _paths(pattern: str) -> list[str]:
    """The files that a glob pattern matches, sorted."""
    if "://" in pattern:
        steps = pattern.split("/")
        fixed = next((i for i, step in enumerate(steps) if re.search(r"[*?\[]", step)), -1)
        files, folder = store(remote("/".join(steps[:fixed])))
        paths = sorted(map(files.unstrip_protocol, files.glob("/".join([folder, *steps[fixed:]]))))
    else:
        paths = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
    if not paths:
        raise UserError(f"data.source files:{pattern} matches no file")
    for path in paths:
        kind = kind_of(path)
        if kind not in KINDS or (kind == ".parquet" and is_packed(path)):
            raise UserError(
                f"{path}: the name must end in .txt or .jsonl, with {', '.join(PACKINGS)} after it or not, "
                "or in .parquet"
            )
        if kind == ".parquet":
            parquet.check_installed(path)
    return paths


def _read_file(path: str, text_field: str) -> Iterator[Document]:
    with _opened(path) as raw, unpacked(path, raw) as file:
        match kind_of(path):
            case ".txt":
                yield from _group(_text_lines(path, line_ends.reader(file)))
            case ".jsonl":
                yield from _of_texts(_json_texts(path, line_ends.reader(file), text_field))
            case ".parquet":
                found = enumerate(parquet.column(path, file, text_field), 1)
                yield from _of_texts(
                    None if raw is None else _decode(raw, f"{path}, row {number}") for number, raw in found
                )


def _of_texts(texts: Iterable[str | None]) -> Iterator[Document]:
    """A document each, or several where it is huge; without lines where there is no text."""
    for text in texts:
        has_text = False
        for document in _group(_lines_of_text(text or "")):
            has_text = True
            yield document
        if not has_text:
            yield NO_TEXT


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if "://" not in path:
        with open(path, "rb") as file:
            yield file
        return
    files, name = store(remote(path))
    with files.open(name, "rb") as file:
        yield io.BufferedReader(file)


def _text_lines(path: str, file: IO[bytes]) -> Iterator[str]:
    """Stripped lines; a line longer than MAX_LINE comes in pieces, none of them empty."""
    number = 1
    is_piece = False
    carried = b""  # the start of a character that a cut went through
    while raw := file.readline(MAX_LINE):
        if number == 1 and 3 * raw.count(b"\0") > len(raw):  # a character is a byte with a NUL beside it
            raise UserError(f"{path} line 1: not UTF-8, but UTF-16 or UTF-32; convert it, as with iconv")
        ends = raw.endswith(b"\n")
        raw, carried = (carried + raw, b"") if ends else _split_at_character(carried + raw)
        line = sanitize(_decode(raw, f"{path} line {number}")).strip()
        if line or (ends and not is_piece):
            yield line
        is_piece = not ends
        number += ends
    if carried:
        _decode(carried, f"{path} line {number}")  # raises: the file ends inside a character


def _split_at_character(raw: bytes) -> tuple[bytes, bytes]:
    """Cuts before the last character of `raw` if that one is incomplete UTF-8."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4 bytes
            width = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return (raw[:-back], raw[-back:]) if width > back else (raw, b"")
        if byte < 0x80:
            break
    return raw, b""


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not valid UTF-8 ({error.reason}); convert it, for example with iconv -t UTF-8"
        ) from error


def _json_texts(path: str, file: IO[bytes], field: str) -> Iterator[str | None]:
    for number, raw in enumerate(file, 1):
        where = f"{path} line {number}"
        line = _decode(raw, where).strip("\ufeff \t\r\n")
        if not line:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is the former too
            raise UserError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict) or field not in record:
            has = ", ".join(record if isinstance(record, dict) else ()) or "none"
            raise UserError(
                f"{where} has no field {field!r}; it has {has}: choose one with --data.text-field"
            )
        text = record[field]
        if not isinstance(text, str) and not is_missing(text):
            raise UserError(f"{where}: the field {field!r} is {text!r}, not a text")
        yield text if isinstance(text, str) else None


def is_missing(value: Any) -> bool:
    """Whether a record has nothing in a field: null, or NaN as pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def sanitize(text: str) -> str:
    """`text` without what breaks tools on the way, and otherwise as it is.

    Byte order marks go, NULs become spaces, and half a surrogate pair, which JSON can hold and UTF-8 cannot,
    becomes U+FFFD. Unicode normalization and lower-casing are the tokenizer's.
    """
    if "\ufeff" in text:
        text = text.replace("\ufeff", "")
    if "\x00" in text:
        text = text.replace("\x00", " ")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in it: spaces, controls, and what has no width."""
    return all(sign.isspace() or unicodedata.category(sign) in ("Cc", "Cf") for sign in text)


def _lines_of_text(text: str) -> Iterator[str]:
    """The non-empty lines of one document, then the empty line that ends it."""
    # As in text files: not at form feeds and the like. What is empty is left out.
    for line in sanitize(text).replace("\r", "\n").split("\n"):
        line = line.strip()
        for start in range(0, len(line), MAX_LINE):
            yield line[start : start + MAX_LINE]
    yield ""


_TFDS_SOURCE = re.compile(
    r"(?P<dataset>[^:]+(:(\d+\.\d+\.\d+|\*\.\*\.\*))?)(:(?P<split>\w+(\[[^]]*\])?))?(:(?P<feature>\w+))?"
)
"""wikipedia/20230601.en:1.0.0:train[:10%]:text, all but the name optional."""


def _tfds_readers(name: str) -> list[Reader]:
    import tensorflow_datasets as tfds

    fields = _TFDS_SOURCE.fullmatch(name)
    if fields is None:
        raise UserError(f"data.source tfds:{name} is not of the form tfds:NAME[:SPLIT[:FEATURE]]")
    dataset, split, feature = fields["dataset"], fields["split"] or "train", fields["feature"] or "text"
    try:
        builder = tfds.builder(dataset, try_gcs=False)
        builder.download_and_prepare()
        shards = min(64, builder.info.splits[split].num_shards)
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, KeyError) as error:
        raise UserError(f"data.source tfds:{name}: {str(error).strip().splitlines()[0]}") from error
    if feature not in builder.info.features:
        names = ", ".join(sorted(builder.info.features))
        raise UserError(f"data.source tfds:{name} has no feature {feature!r}; it has {names}")
    if not isinstance(builder.info.features[feature], tfds.features.Text):
        raise UserError(f"data.source tfds:{name}: the feature {feature!r} is not text")
    parts = tfds.even_splits(split, shards) if shards > 1 else [split]
    return [functools.partial(_read_tfds, name, dataset, part, feature) for part in parts]


def _read_tfds(name: str, dataset: str, split: Any, feature: str) -> Iterator[Document]:
    import tensorflow_datasets as tfds

    examples = tfds.load(dataset, split=split, try_gcs=False).as_numpy_iterator()
    found = enumerate((example[feature] for example in examples), 1)
    yield from _of_texts(_decode(raw, f"tfds:{name}, record {number}") for number, raw in found)


def _read_python_docs() -> Iterator[Document]:
    yield from _group(map(sanitize, _lines_of_python_docs()))


def _lines_of_python_docs() -> Iterator[str]:
    """The Python reference (pydoc's topics) and the standard library's docstrings, a paragraph a line."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from _paragraphs(topics[name])
        yield ""
    library = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names):
        for path in sorted([library / f"{name}.py", *(library / name).rglob("*.py")]):
            if path.is_file() and not {"test", "tests"} & set(path.relative_to(library).parts):
                yield from _docstrings(path)
                yield ""


def _docstrings(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _paragraphs(ast.get_docstring(node) or "")


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs with their hard line breaks undone."""
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        if line:
            yield line
