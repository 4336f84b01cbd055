"""Whether the files of a folder are those that were written: sizes and digests, in a file beside them."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from etils import epath

from data_pipeline.storage import objects_in, refusal, replace_text, url_of

log = logging.getLogger(__name__)

FILE = "digests.json"
"""{"path in the folder": [bytes, digest], ...}: "sha256 ...", or the store's "crc32c ..."; null at first."""
UNHASHED = {FILE, f"{FILE}.unfinished", "_CHECKPOINT_METADATA", "commit_success.txt"}
"""Files without a digest: this one, and what Orbax writes last."""


def write_sizes(folder: epath.Path) -> None:
    """Writes names and sizes: reads no file."""
    _write(folder, {name: (size, None) for name, size in _sizes(folder).items()})


def total_size(folder: epath.Path) -> int:
    """Bytes of the files of a folder, but for those without a digest."""
    return sum(_sizes(folder).values())


def have_digests(folder: epath.Path) -> bool:
    """Whether `verify` compares more than sizes."""
    return all(_is_comparable(folder, digest) for _, digest in _read(folder).values())


def verify(folder: epath.Path) -> str | None:
    """What is wrong with `folder`, in a few words; None if all is as it was written.

    Only what is in the folder is read; a path in digests.json is compared and never opened.
    """
    try:
        expected = _read(folder)
    except FileNotFoundError:
        return f"{FILE} is missing"
    except (ValueError, TypeError, AttributeError):
        return f"{FILE} has no sizes and digests"
    found = _sizes(folder)
    for name, size in found.items():
        if name not in expected:
            return f"{name} was not there when it was written"
        if size != expected[name][0]:
            return f"{name} has {size:,} bytes, not {expected[name][0]:,}"
    if missing := sorted(expected.keys() - found.keys()):
        return f"{missing[0]} is missing"
    known = [name for name, (_, digest) in expected.items() if _is_comparable(folder, digest)]
    for name, digest in _digests(folder, known):
        if digest != expected[name][1]:
            return f"{name} has other bytes than were written"
    return None


def digest_of(folder: epath.Path, names: Iterable[str] | None = None) -> str:
    """One digest of files of a folder, all of them if None, which are read unless a store knows it."""
    total = hashlib.sha256()
    for name, digest in _digests(folder, sorted(_sizes(folder) if names is None else names)):
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()[:32]


class BackgroundDigests:
    """Reads the files of checkpoints by a thread beside the training, one checkpoint after the other.

    The thread writes nothing: Orbax may be deleting the folder. It ends with the process.
    """

    def __init__(self) -> None:
        self._folders: queue.Queue[epath.Path] = queue.Queue()
        self._found: queue.Queue[tuple[epath.Path, dict[str, str]]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="digests", daemon=True)

    def add(self, folder: epath.Path) -> None:
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
            except Exception as error:
                if not isinstance(error, OSError) and refusal(error) is None:
                    raise
                log.warning("no digests of %s: %s", folder, refusal(error) or error)

    def wait(self) -> None:
        """Returns when all digests are written."""
        self._folders.join()
        self.write_found()

    def _run(self) -> None:
        while True:
            folder = self._folders.get()
            try:
                self._found.put((folder, dict(_digests(folder, _sizes(folder)))))
            except FileNotFoundError:  # it was deleted meanwhile
                log.debug("%s is gone", folder)
            except Exception as error:  # a store's is of no kind; and whoever waits must not wait for ever
                log.warning("no digests of %s: %s", folder, refusal(error) or error)
            self._folders.task_done()


def _read(folder: epath.Path) -> dict[str, tuple[int, str | None]]:
    content = json.loads((folder / FILE).read_bytes())
    return {name: (int(size), digest) for name, (size, digest) in content.items()}


def _write(folder: epath.Path, entries: Mapping[str, tuple[int, str | None]]) -> None:
    replace_text(folder / FILE, json.dumps(entries, indent=1))


def _sizes(folder: epath.Path) -> dict[str, int]:
    """Bytes of each file, by its path in the folder."""
    if url_of(folder):
        found = {name: info["size"] for name, info in objects_in(folder).items()}
    else:
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        found = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {name: size for name, size in sorted(found.items()) if name.split("/")[-1] not in UNHASHED}


def _digests(folder: epath.Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """SHA-256 of files, which are read; of objects the checksum that the store has of them."""
    objects = objects_in(folder) if url_of(folder) else None
    for name in names:
        if objects is not None:
            yield name, f"{_kind(folder)} {objects[name].get('crc32c')}"
            continue
        with (folder / name).open("rb") as file:
            yield name, f"{_kind(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _kind(folder: epath.Path) -> str:
    """The digest that can be had where a folder is; a copy elsewhere has another one."""
    return "crc32c" if url_of(folder) else "sha256"


def _is_comparable(folder: epath.Path, digest: str | None) -> bool:
    return digest is not None and digest.startswith(_kind(folder))
