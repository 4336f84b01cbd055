"""Whether the files of a folder are those that were written: sizes and digests, in a file beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

FILE = "digests.json"
"""{"path in the folder": [bytes, SHA-256], ...}; the digests are null until they are known."""
UNHASHED = {FILE, f"{FILE}.unfinished", "_CHECKPOINT_METADATA", "commit_success.txt"}
"""Files without a digest: this one, and what Orbax writes last."""


def write_sizes(folder: Path) -> None:
    """Writes names and sizes: reads no file."""
    _write(folder, {name: (path.stat().st_size, None) for name, path in _files(folder)})


def have_digests(folder: Path) -> bool:
    """Whether `verify` compares more than sizes."""
    return None not in [digest for _, digest in _read(folder).values()]


def verify(folder: Path) -> str | None:
    """What is wrong with `folder`, in a few words; None if all is as it was written.

    Only what is in the folder is read; a path in digests.json is compared and never opened.
    """
    try:
        expected = _read(folder)
    except FileNotFoundError:
        return f"{FILE} is missing"
    except (ValueError, TypeError, AttributeError):
        return f"{FILE} has no sizes and digests"
    for name, path in _files(folder):
        if name not in expected:
            return f"{name} was not there when it was written"
        size, digest = expected.pop(name)
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, not {size:,}"
        if digest is not None and _digest(path) != digest:
            return f"{name} has other bytes than were written"
    return f"{min(expected)} is missing" if expected else None


class BackgroundDigests:
    """Reads the files of checkpoints by a thread beside the training, one checkpoint after the other.

    The thread writes nothing: Orbax may be deleting the folder. It ends with the process.
    """

    def __init__(self) -> None:
        self._folders: queue.Queue[Path] = queue.Queue()
        self._found: queue.Queue[tuple[Path, dict[str, str]]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)

    def add(self, folder: Path) -> None:
        """Begins to read a folder whose sizes were written, after those before it. Returns at once."""
        if not self._thread.is_alive():
            self._thread.start()
        self._folders.put(folder)

    def write_found(self) -> None:
        """Writes what the thread has found. To be called while nobody deletes."""
        while not self._found.empty():
            folder, found = self._found.get()
            try:
                if folder.exists():
                    sizes = _read(folder).items()
                    _write(folder, {name: (size, found.get(name)) for name, (size, _) in sizes})
            except OSError as error:
                log.warning("no digests of %s: %s", folder, error)

    def wait(self) -> None:
        """Returns when all digests are written."""
        self._folders.join()
        self.write_found()

    def _run(self) -> None:
        while True:
            folder = self._folders.get()
            try:
                self._found.put((folder, {name: _digest(path) for name, path in _files(folder)}))
            except OSError as error:
                if folder.exists():  # and was not deleted meanwhile
                    log.warning("no digests of %s: %s", folder, error)
            self._folders.task_done()


def _read(folder: Path) -> dict[str, tuple[int, str | None]]:
    content = json.loads((folder / FILE).read_bytes())
    return {name: (int(size), digest) for name, (size, digest) in content.items()}


def _write(folder: Path, entries: Mapping[str, tuple[int, str | None]]) -> None:
    unfinished = folder / f"{FILE}.unfinished"
    unfinished.write_text(json.dumps(entries, indent=1))
    os.replace(unfinished, folder / FILE)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in UNHASHED:
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
