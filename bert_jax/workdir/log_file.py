"""A log of a run: a file that grows, and whose disk may refuse it for a while."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger(__name__)


class LogFile:
    """Appends to a file. What its disk refuses is warned of, kept, and written before what follows.

    A log is for people: a run that trains does not end because nobody can read about it.

    Args:
      path: is made if it is not there. A last line that a killed process left half-written is cut off.
    """

    def __init__(self, path: Path):
        self._path = path
        self._size = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
        self._waiting = b""

    def write(self, data: bytes) -> None:
        """Appends whole lines or records."""
        was_refused, self._waiting = bool(self._waiting), self._waiting + data
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                # Without what was written of these bytes when they were refused; and if somebody has cut the
                # file, from where it ends now.
                self._size = file.truncate(min(self._size, file.seek(0, 2)))
                file.write(self._waiting)
        except OSError as error:
            if not was_refused:
                reason = error.strerror or error
                log.warning("%s cannot be written (%s); trying again with what follows", self._path, reason)
            return
        self._size, self._waiting = self._size + len(self._waiting), b""

    def flush(self) -> None:
        """Tries once more what was refused."""
        if self._waiting:
            self.write(b"")
