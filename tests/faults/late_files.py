"""A disk that is shared over a network, as each process of a run sees it: late.

A recipe that imports this file sees for $LATE_SECONDS nothing of what other processes have made or renamed,
and what they have deleted stays in its listings. What they append to logs it never sees. Only the view that
Python has of the disk is late; TensorStore has another one.

What the processes do is noted in a journal, with the time.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = float(os.environ["LATE_SECONDS"])
JOURNAL = os.environ["LATE_JOURNAL"]
ROOT = os.path.dirname(JOURNAL)

_stat, _listdir, _scandir, _open = os.stat, os.listdir, os.scandir, io.open


def _note(made: str | None, gone: str | None) -> None:
    entry = {"time": time.time(), "process": os.getpid(), "made": made, "gone": gone}
    with _open(JOURNAL, "a") as file:
        file.write(json.dumps(entry) + "\n")


def _recent() -> list[dict[str, Any]]:
    """What others have done, and this process does not see yet."""
    with _open(JOURNAL) as file:
        entries = [json.loads(line) for line in file if line.endswith("\n")]
    since = time.time() - SECONDS
    return [entry for entry in entries if entry["process"] != os.getpid() and entry["time"] > since]


def _path(path: Any) -> str | None:
    """An absolute path below the folder of the journal; None if it is elsewhere."""
    if isinstance(path, int):
        return None
    path = os.path.abspath(os.fsdecode(path))
    return path if path.startswith(ROOT + os.sep) else None


def _check_is_seen(path: Any) -> None:
    """Raises FileNotFoundError if it, or a folder that it is in, is too young."""
    absolute = _path(path)
    if absolute is None:
        return
    for entry in _recent():
        made = entry["made"]
        if made is not None and (absolute == made or absolute.startswith(made + os.sep)):
            raise FileNotFoundError(2, "No such file or directory", os.fsdecode(path))


def _seen(path: Any, names: list[str]) -> list[str]:
    """The names of a folder's files as this process sees them."""
    absolute = _path(path)
    if absolute is None:
        return names
    recent = _recent()
    made = {entry["made"] for entry in recent}
    gone = {entry["gone"] for entry in recent if entry["gone"] and os.path.dirname(entry["gone"]) == absolute}
    left = [name for name in names if os.path.join(absolute, name) not in made]
    return left + [os.path.basename(path) for path in gone if os.path.basename(path) not in left]


def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
    _check_is_seen(path)
    return _stat(path, *args, **kwargs)


def listdir(path: Any = ".") -> list[str]:
    _check_is_seen(path)
    return _seen(path, _listdir(path))


class _Scan:
    """The entries that are seen: without those that are gone, of which there is nothing left to ask."""

    def __init__(self, path: Any):
        _check_is_seen(path)
        with _scandir(path) as entries:
            found = {entry.name: entry for entry in entries}
        self._entries = [found[name] for name in _seen(path, list(found)) if name in found]

    def __enter__(self) -> Iterator[Any]:
        return iter(self)

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def close(self) -> None:
        self._entries = []


def open_late(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    if "r" in mode and "+" not in mode:
        _check_is_seen(file)
        absolute = _path(file)
        if absolute and absolute.endswith(".jsonl") and os.environ.get("JAX_PROCESS_ID", "0") != "0":
            return io.BytesIO() if "b" in mode else io.StringIO()
    elif (absolute := _path(file)) and not os.path.lexists(absolute):
        opened = _open(file, mode, *args, **kwargs)
        _note(absolute, None)
        return opened
    return _open(file, mode, *args, **kwargs)


def _noted(call: Callable[..., Any], *, makes: int | None, deletes: int | None) -> Callable[..., Any]:
    """A call that is noted: which of its arguments it makes, and which it deletes."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        made = None if makes is None else _path(args[makes])
        gone = None if deletes is None else _path(args[deletes])
        if made is not None and os.path.lexists(made):
            made = None  # replaced: its name was there before
        result = call(*args, **kwargs)
        if made or gone:
            _note(made, gone)
        return result

    return noted


Path(JOURNAL).touch()
os.stat, os.listdir, os.scandir = stat, listdir, _Scan
builtins.open = io.open = open_late
os.mkdir = _noted(os.mkdir, makes=0, deletes=None)
os.rename = _noted(os.rename, makes=1, deletes=0)
os.replace = _noted(os.replace, makes=1, deletes=0)
os.unlink = os.remove = _noted(os.unlink, makes=None, deletes=0)
shutil.rmtree = _noted(shutil.rmtree, makes=None, deletes=0)
