"""Sources of text: a stream of documents, each a list of lines, in bounded memory.

Owns reading, splitting by document and mending what no tokenizer should see. Does not tokenize.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import glob
import gzip
import hashlib
import importlib
import io
import json
import re
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

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


def documents(source: str) -> Iterator[Document]:
    """Streams the documents of `source`, see `readers`."""
    for reader in readers(source):
        yield from reader()


def readers(source: str) -> list[Reader]:
    """Functions that read `source` a part each; called in turn, they give it in order.

    `files:GLOB` reads .txt (a sentence or paragraph a line, a blank line between documents) and .jsonl
    (a document a line, its `text` field), plain or compressed (.gz, .zst), from a disk or a bucket
    (gs://, through the library that TFDS uses); `tfds:NAME[:SPLIT[:FEATURE]]` reads a text feature of a
    TFDS dataset; `builtin:python-docs` reads the documentation of the running Python.

    Raises:
      UserError: the source is unknown or missing; a reader raises it for text that is not UTF-8 or not
        JSON. It says where.
    """
    kind, _, name = source.partition(":")
    match kind:
        case "files":
            return [functools.partial(_read_file, path) for path in _paths(name)]
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


_FILE_NAME = re.compile(r"\.(?P<kind>txt|jsonl)(\.(?P<packing>gz|zst))?$")


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
        if not _FILE_NAME.search(path):
            raise UserError(f"{path}: the name must end in .txt or .jsonl, with .gz or .zst after it or not")
    return paths


def zstd_module() -> Any:
    """Python's own from 3.14 on, else a package that only who reads a corpus needs."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _read_file(path: str) -> Iterator[Document]:
    name = _FILE_NAME.search(path)
    assert name is not None
    zstd = zstd_module()
    unpack: dict[str | None, Any] = {None: lambda raw: raw, "gz": gzip.open, "zst": zstd.open}
    read = {"txt": _text_lines, "jsonl": _json_lines}[name["kind"]]
    with _opened(path) as raw:
        try:
            yield from _group(read(path, unpack[name["packing"]](raw)))
        except (gzip.BadGzipFile, zstd.ZstdError, zlib.error, EOFError) as error:
            raise UserError(f"{path}: not a whole compressed file ({error})") from error


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
        ends = raw.endswith(b"\n")
        raw, carried = (carried + raw, b"") if ends else _split_at_character(carried + raw)
        line = sanitize(_decode(raw, path, number)).strip()
        if line or (ends and not is_piece):
            yield line
        is_piece = not ends
        number += ends
    if carried:
        _decode(carried, path, number)  # raises: the file ends inside a character


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


def _decode(raw: bytes, path: str, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: not valid UTF-8 ({error.reason}); convert it, for example with "
            "iconv -t UTF-8"
        ) from error


def _json_lines(path: str, file: IO[bytes]) -> Iterator[str]:
    for number, raw in enumerate(file, 1):
        line = _decode(raw, path, number).strip("\ufeff \t\r\n")
        if not line:
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise UserError(f"{path}, line {number}: has no string field `text`")
        yield from _lines_of_text(record["text"])


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


def _lines_of_text(text: str) -> Iterator[str]:
    """The non-empty lines of one document, then the empty line that ends it."""
    for line in sanitize(text).split("\n"):  # as in text files: not at form feeds and the like
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

    def lines() -> Iterator[str]:
        examples = tfds.load(dataset, split=split, try_gcs=False)
        for number, example in enumerate(examples.as_numpy_iterator(), 1):
            yield from _lines_of_text(_decode(example[feature], f"tfds:{name}", number))

    yield from _group(lines())


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
