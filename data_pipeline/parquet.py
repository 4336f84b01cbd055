"""Text of Parquet files, such as those of the Hub's datasets: one column, a few rows at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import IO, Any

from data_pipeline.errors import UserError

ROWS = 256
"""Read at a time. A row group may have gigabytes; of it, only pages that are unpacked are in memory."""
BUFFER = 1 << 20
"""Bytes of a file that are read at a time."""


def check_installed(path: str) -> None:
    """Raises UserError if nothing is there that reads Parquet: before the work, not in it."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{path} needs pyarrow: pip install 'bert-jax[parquet]'")


def column(path: str, file: IO[bytes], name: str) -> Iterator[Any]:
    """The values of a column, one after the other: bytes for text, which nobody has looked at yet.

    Raises:
      UserError: the file is damaged, or has no such column of text.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file, buffer_size=BUFFER)
        schema = table.schema_arrow
        if (times := schema.names.count(name)) > 1:
            raise UserError(f"{path} has the column {name!r} {times} times; give all but one another name")
        if name not in schema.names:
            raise UserError(
                f"{path} has no column {name!r}; it has {', '.join(schema.names)}: choose one with "
                "--data.text-field"
            )
        for batch in table.iter_batches(batch_size=ROWS, columns=[name], use_threads=False):
            values = batch.column(0)
            if pyarrow.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            if values.type in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                values = values.cast(pyarrow.large_string()).view(pyarrow.large_binary())
            elif not (pyarrow.types.is_null(values.type) or _is_binary(values.type)):
                raise UserError(f"{path}: the column {name!r} is of the type {values.type}, not text")
            yield from values.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of what is on it
            raise
        raise UserError(f"{path}: not a whole Parquet file ({_line(error)})") from error


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in kinds)


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
