"""Whether the files of a folder are those that were written: a digest of each, in a file beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

FILE = "digests.json"
UNHASHED = {FILE, "_CHECKPOINT_METADATA", "commit_success.txt"}
"""Files without a digest: this one, and what Orbax writes last."""


def write(folder: Path) -> None:
    """Writes `digests.json`: {"path in the folder": [bytes, SHA-256], ...}."""
    found = {name: [path.stat().st_size, _digest(path)] for name, path in _files(folder)}
    (folder / FILE).write_text(json.dumps(found, indent=1))


def verify(folder: Path) -> str | None:
    """What is wrong with `folder`, in a few words; None if all is as `write` found it.

    Only what is in the folder is read; a path in digests.json is compared and never opened.
    """
    try:
        expected = json.loads((folder / FILE).read_bytes())
        if not isinstance(expected, dict):
            return f"{FILE} is no object"
    except FileNotFoundError:
        return f"{FILE} is missing"
    except ValueError:
        return f"{FILE} is not JSON"
    for name, path in _files(folder):
        if name not in expected:
            return f"{name} was not there when it was written"
        size, digest = expected.pop(name)
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, not {size:,}"
        if _digest(path) != digest:
            return f"{name} has other bytes than were written"
    return f"{min(expected)} is missing" if expected else None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in UNHASHED:
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
