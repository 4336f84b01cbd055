"""The corpus on disk, by its documents' keys: a machine can prepare more text than its memory holds.

Keys are hashes, so this is a shuffle of the corpus, the same one in whatever order it is read. Equal
documents come to lie beside each other. SQLite does the work.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipeline.corpus import Document


def write(path: Path, documents: Iterable[tuple[str, Document]]) -> None:
    """Writes documents, each with the name of its split, to a new file.

    Raises:
      OSError: the disk is full.
    """
    with _disk_errors(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        # The file is read by this run or by none: nothing needs to survive a crash.
        for pragma in ("journal_mode = OFF", "synchronous = OFF"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE documents (split TEXT, key INTEGER, text BLOB)")
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO documents VALUES (?, ?, ?)",
            ((split, document.key, "\n".join(document.lines).encode()) for split, document in documents),
        )
        database.execute("COMMIT")
        database.execute("CREATE INDEX by_key ON documents (split, key)")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(
            f"the text cannot be kept in {path} ({error}): it needs as much free disk as it has bytes"
        ) from error


def read(paths: Iterable[Path], split: str, *, keys: range) -> Iterator[Document]:
    """The documents of `split` with these keys, of all files, sorted; equal ones follow each other."""

    def rows(database: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
        return database.execute(
            "SELECT key, text FROM documents WHERE split = ? AND key BETWEEN ? AND ? ORDER BY key, text",
            (split, keys.start, keys.stop - 1),
        )

    def opened(path: Path) -> sqlite3.Connection:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(
            uri, uri=True, check_same_thread=False
        )  # a trainer reads in a thread of its own

    with contextlib.ExitStack() as stack:
        databases = [stack.enter_context(contextlib.closing(opened(path))) for path in paths]
        for key, text in heapq.merge(*map(rows, databases)):
            yield Document(key, text.decode().split("\n"))
