"""Line ends of Unix, of Windows and of an old Mac, made those of Unix."""

from __future__ import annotations

import io
import re
from typing import IO, Any

_LINE_END = re.compile(rb"\r{0,2}\n|\r")
"""A file that was converted twice has two carriage returns before its newlines: each a line end, they would
make empty lines, which part documents."""


def unified(raw: bytes) -> bytes:
    """With a newline at the end of each line."""
    return _LINE_END.sub(b"\n", raw) if b"\r" in raw else raw


def reader(file: IO[bytes]) -> IO[bytes]:
    """The same of a file, which may be larger than the memory."""
    return io.BufferedReader(_Unified(file), buffer_size=1 << 16)


class _Unified(io.RawIOBase):
    def __init__(self, file: IO[bytes]):
        self._file = file
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._file.read(len(buffer) - len(self._held))
        raw, self._held = self._held + found, b""
        if found and raw.endswith(b"\r"):  # a newline may follow
            end = max(len(raw.rstrip(b"\r")), len(raw) - 2)
            raw, self._held = raw[:end], raw[end:]
            if not raw:
                return self.readinto(buffer)
        raw = unified(raw)
        buffer[: len(raw)] = raw
        return len(raw)
