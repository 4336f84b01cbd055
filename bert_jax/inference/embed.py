"""The vectors of the texts of a file, in a file: `bert-jax embed`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.inference.predict import NAMED
from bert_jax.inference.vectors import Dtype, Vectorizer
from bert_jax.interop.load import load_embedder
from bert_jax.tasks import columns, records
from bert_jax.tasks.records import Empty
from bert_jax.tasks.text import FORMATS
from data_pipeline import parquet
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

Write = Callable[[np.ndarray], object]
"""Writes vectors, [N, D], behind those that are written."""


def embed(
    directory: Path,
    *,
    file: str | None,
    lines: Iterable[bytes],
    out: Path,
    column: str = "text",
    prompt: str | None = None,
    dimensions: int | None = None,
    dtype: Dtype = "auto",
) -> tuple[int, int]:
    """Writes the vectors of the texts of a file, or of `lines` of standard input, in their order.

    Args:
      directory: a folder of Sentence Transformers, one of an encoder, or a workdir.
      out: a new file: .npy, an array [N, D] of float32; or .parquet, with them in the column `vector`.
      column: of the text, in a file that has columns.
      prompt: in front of each text; query and document stand for those of the model.

    Returns:
      How many vectors there are, and how many numbers each has.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError, UserError: something cannot be used. After the last vector: some texts are empty, and
        their vectors 0.
    """
    if out.suffix not in WRITERS:
        raise UserError(f"--out {out} is no file of vectors; known are {', '.join(WRITERS)}")
    if out.exists():
        raise FileExistsError(f"{out} exists already; delete it, or give another --out")
    texts = _read(file, lines, column=column)
    make = Vectorizer(load_embedder(directory), dimensions=dimensions, dtype=dtype)
    settings = make.use.settings
    if prompt is not None:
        own = {"query": settings.query_prompt, "document": settings.document_prompt}
        prompt = own.get(prompt, prompt)
    empty = [index for index, text in enumerate(texts) if isinstance(text, Empty)]
    given = ["" if isinstance(text, Empty) else text[1] for text in texts]
    first = 0
    cut: list[int] = []
    with WRITERS[out.suffix](out, make.dimensions) as write:
        for vectors in make(given, prompt=prompt, name="embed"):
            end = first + len(vectors.array_NxD)
            vectors.array_NxD[[index - first for index in empty if first <= index < end]] = 0
            write(vectors.array_NxD)
            first, cut = end, cut + vectors.cut
    if cut:
        log.warning("cut, because too long: %s, the first is %s", f"{len(cut):,}", texts[cut[0]][0])
    if empty:
        places = ", ".join(texts[index][0] for index in empty[:NAMED]) + ", ..." * (len(empty) > NAMED)
        raise UserError(f"{len(empty):,} of {len(texts):,} texts are empty, and their vectors 0: {places}")
    return len(texts), make.dimensions


def _read(file: str | None, lines: Iterable[bytes], *, column: str) -> list[tuple[str, str] | Empty]:
    """Where each text is, and the text."""
    if file is None:
        found = records.texts(records.STDIN, records.decoded(lines, records.STDIN), column)
    else:
        formats = FORMATS | {".txt": records.text_lines(column)}
        found = iter(records.read(file, formats, kind="text", columns=(column,)))

    def text(where: str, record: dict[str, Any]) -> tuple[str, str]:
        return where, columns.string(where, record, column, "; choose one with --text")

    texts = list(records.examples(found, text, labelled=False))
    if not texts:
        raise UserError(f"{file or records.STDIN} has no texts")
    return texts


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A file beside `out`, which takes its place if all goes well."""
    part = out.with_name(f"{out.name}.unfinished")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _npy(out: Path, dimensions: int) -> Iterator[Write]:
    count = 0
    with _unfinished(out) as part, part.open("wb") as file:

        def write_header() -> None:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimensions)}
            np.lib.format.write_array_header_1_0(file, header)  # which leaves room for a count that grows

        def write(array_NxD: np.ndarray) -> None:
            nonlocal count
            count += len(array_NxD)
            file.write(np.ascontiguousarray(array_NxD, "<f4").data)

        write_header()
        begin = file.tell()
        yield write
        file.seek(0)
        write_header()
        assert file.tell() == begin
        file.flush()


@contextlib.contextmanager
def _parquet(out: Path, dimensions: int) -> Iterator[Write]:
    parquet.check_installed(str(out))
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kind = pyarrow.list_(pyarrow.float32(), dimensions)
    schema = pyarrow.schema([("vector", kind)])

    def batch(array_NxD: np.ndarray) -> pyarrow.RecordBatch:
        numbers = pyarrow.array(array_NxD.reshape(-1))
        return pyarrow.record_batch(
            [pyarrow.FixedSizeListArray.from_arrays(numbers, type=kind)], schema=schema
        )

    with _unfinished(out) as part, ParquetWriter(part, schema) as file:
        yield lambda array_NxD: file.write_batch(batch(array_NxD))


WRITERS: dict[str, Callable[[Path, int], contextlib.AbstractContextManager[Write]]] = {
    ".npy": _npy,
    ".parquet": _parquet,
}
