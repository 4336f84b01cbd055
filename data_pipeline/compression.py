"""Files as they are packed, by the endings of their names: which letters are large does not matter."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import IO, Any

from data_pipeline.errors import UserError


def zstd_module() -> Any:
    """Python's own from 3.14 on, else a package that only who reads such files needs."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def _open_zst(file: IO[bytes]) -> Any:
    return zstd_module().open(file)


PACKINGS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}
"""What unpacks a file, by its ending."""


def kind_of(path: str) -> str:
    """The ending of a file's name without that of its packing, in small letters: .txt of A.TXT.GZ."""
    name = PurePath(path.lower())
    return PurePath(name.stem if name.suffix in PACKINGS else name).suffix


def is_packed(path: str) -> bool:
    return PurePath(path.lower()).suffix in PACKINGS


@contextlib.contextmanager
def unpacked(path: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The content of a file, unpacked as its name says.

    Raises:
      UserError: while it is read, if it is not a whole compressed file.
    """
    packing = PurePath(path.lower()).suffix
    if packing not in PACKINGS:
        yield file
        return
    damaged: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, EOFError, OSError)
    if packing == ".zst":
        damaged += (zstd_module().ZstdError,)
    try:
        yield PACKINGS[packing](file)
    except damaged as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of what is on it
            raise
        raise UserError(f"{path}: not a whole compressed file ({error})") from error
