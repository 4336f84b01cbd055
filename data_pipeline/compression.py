"""Files as they are packed, by the endings of their names: which letters are large does not matter."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import importlib
import io
import itertools
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


CHUNK = 1 << 16
"""Bytes of a file that are read or unpacked at a time."""


class _Parts(io.RawIOBase):
    """A file of one or several compressed parts, unpacked.

    bz2.open and lzma.open take bytes behind a part that begin none for the end of the file: what comes after
    a damaged one would be missing, and nobody told.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any], *, padding: bytes):
        self._file, self._new, self._padding = file, new, padding
        self._part: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = b""
        while not found:
            raw = b""
            if self._part is None or self._part.eof:
                raw = self._start_of_part()
                if not raw:
                    return 0
                self._part = self._new()
            elif self._part.needs_input:
                raw = self._file.read(CHUNK)
                if not raw:
                    raise EOFError("it ends inside of a part")
            found = self._part.decompress(raw, max_length=len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _start_of_part(self) -> bytes:
        """The bytes that the next one begins with; none at the end of the file."""
        left = b"" if self._part is None else self._part.unused_data
        for raw in itertools.chain([left], iter(functools.partial(self._file.read, CHUNK), b"")):
            if start := raw.lstrip(self._padding):
                return start
        return b""


PACKINGS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": gzip.open,
    ".bz2": lambda file: io.BufferedReader(_Parts(file, bz2.BZ2Decompressor, padding=b""), CHUNK),
    ".xz": lambda file: io.BufferedReader(_Parts(file, lzma.LZMADecompressor, padding=b"\0"), CHUNK),
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
