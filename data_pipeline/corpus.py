"""Sources of text: a stream of documents, each a list of lines, in bounded memory.

Owns reading and splitting by document. Does not tokenize.
"""

from __future__ import annotations

import ast
import glob
import gzip
import hashlib
import json
import sys
import sysconfig
import typing
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

MAX_LINE = 100_000
"""Bytes of a text file, characters elsewhere. A longer line is cut here: it never fills the memory."""
MAX_DOCUMENT = 1_000_000
"""Characters. A longer document is passed on in parts that share its key."""


class Document(NamedTuple):
    """Lines of one document. `key` identifies it by its first lines, so that copies share a split."""

    key: bytes
    lines: list[str]


def documents(source: str) -> Iterator[Document]:
    """Streams the documents of `source`.

    `files:GLOB` reads .txt and .txt.gz (a sentence or paragraph a line, a blank line between documents) and
    .jsonl and .jsonl.gz (a document a line, its `text` field); `tfds:NAME[:split]` reads the `text`
    feature of a TFDS dataset; `builtin:python-docs` reads the documentation of the running Python.

    Raises:
      ValueError: the source is unknown, missing, empty, not UTF-8 or not JSON; says where.
    """
    kind, _, name = source.partition(":")
    match kind:
        case "files":
            chunks = _lines_of_files(name)
        case "tfds":
            chunks = _lines_of_tfds(name)
        case "builtin" if name == "python-docs":
            chunks = _lines_of_python_docs()
        case _:
            raise ValueError(
                f"data.source {source!r} is unknown; use files:GLOB, tfds:NAME[:split] or builtin:python-docs"
            )
    empty = True
    for document in _group(chunks):
        empty = False
        yield document
    if empty:
        raise ValueError(f"data.source {source!r} has no text in it")


def in_validation(document: Document, *, fraction: float, seed: int) -> bool:
    """Whether a document is held out: a hash of its key and the seed, not its place in the corpus."""
    digest = hashlib.blake2b(document.key, digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def blocks(stream: Iterable[Document], *, characters: int = 4_000_000) -> Iterator[list[Document]]:
    """Groups consecutive documents to about `characters` of text: the unit of work and of random pairing."""
    block: list[Document] = []
    size = 0
    for document in stream:
        block.append(document)
        size += sum(map(len, document.lines))
        if size >= characters:
            yield block
            block, size = [], 0
    if block:
        yield block


def _group(lines: Iterable[str]) -> Iterator[Document]:
    """Documents from lines, where an empty line ends a document."""
    key = b""
    part: list[str] = []
    size = 0
    for line in lines:
        if line:
            part.append(line)
            size += len(line)
        if part and (not line or size >= MAX_DOCUMENT):
            key = key or _key(part)
            yield Document(key, part)
            part, size = [], 0
        if not line:
            key = b""
    if part:
        yield Document(key or _key(part), part)


def _key(lines: list[str]) -> bytes:
    return hashlib.blake2b("\n".join(lines)[:2000].encode(), digest_size=16).digest()


def _lines_of_files(pattern: str) -> Iterator[str]:
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
    if not paths:
        raise ValueError(f"data.source files:{pattern} matches no file")
    for path in paths:
        name = path.removesuffix(".gz")
        if not name.endswith((".txt", ".jsonl")):
            raise ValueError(f"{path}: the name must end in .txt, .txt.gz, .jsonl or .jsonl.gz")
        read = _json_lines if name.endswith(".jsonl") else _text_lines
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            try:
                yield from read(path, typing.cast(IO[bytes], file))
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise ValueError(f"{path}: not a whole gzip file ({error})") from error
        yield ""


def _text_lines(path: str, file: IO[bytes]) -> Iterator[str]:
    """Stripped lines; a line longer than MAX_LINE comes in pieces, none of them empty."""
    number = 1
    is_piece = False
    carried = b""  # the start of a character that a cut went through
    while raw := file.readline(MAX_LINE):
        ends = raw.endswith(b"\n")
        raw, carried = (carried + raw, b"") if ends else _split_at_character(carried + raw)
        line = _decode(raw, path, number).strip()
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
        raise ValueError(
            f"{path}, line {number}: not valid UTF-8 ({error.reason}); convert it, for example with "
            "iconv -t UTF-8"
        ) from error


def _json_lines(path: str, file: IO[bytes]) -> Iterator[str]:
    for number, raw in enumerate(file, 1):
        line = _decode(raw, path, number)
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise ValueError(f"{path}, line {number}: has no string field `text`")
        yield from _lines_of_text(_whole(record["text"]))


def _whole(text: str) -> str:
    """`text` with each half of a surrogate pair, which JSON can hold and UTF-8 cannot, made U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _lines_of_text(text: str) -> Iterator[str]:
    """The non-empty lines of one document, then the empty line that ends it."""
    for line in text.split("\n"):  # as in text files: not at form feeds and the like
        line = line.strip()
        for start in range(0, len(line), MAX_LINE):
            yield line[start : start + MAX_LINE]
    yield ""


def _lines_of_tfds(name: str) -> Iterator[str]:
    import tensorflow_datasets as tfds

    dataset, _, split = name.partition(":")
    try:
        examples = tfds.load(dataset, split=split or "train", try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"data.source tfds:{name}: {str(error).strip().splitlines()[0]}") from error
    if "text" not in examples.element_spec:
        raise ValueError(f"data.source tfds:{name} has no feature `text`: {sorted(examples.element_spec)}")
    for number, example in enumerate(examples.as_numpy_iterator(), 1):
        yield from _lines_of_text(_decode(example["text"], f"tfds:{name}", number))


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
