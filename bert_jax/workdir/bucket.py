"""A workdir in a bucket: checkpoints stay there, small files have a copy on this machine.

Logs grow by a line at a time and objects do not: they are written here and uploaded whole, every so often and
at the end. Everything else reads and writes `workdir`, a folder of this machine; what is about checkpoints
asks `root_of` where it really is.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etils import epath

from data_pipeline.errors import UserError
from data_pipeline.storage import cached_urls, download, objects_in, refusal, remote, upload, url_of

log = logging.getLogger(__name__)

UPLOAD_SECONDS = 60.0
LAST_TRIES = (0.0, 1.0, 5.0)
"""Seconds before each of the last tries to upload."""
LARGE = ("checkpoints", "damaged", "replaced", "tensorboard")
"""Folders of a workdir, or of a run in it, that are not copied to this machine."""


def root_of(workdir: Path) -> epath.Path:
    """Where a workdir is: itself, or the folder in a bucket of which it is the copy, or is in the copy."""
    copy = _copy_around(workdir)
    return epath.Path(workdir) if copy is None else remote(_URLS[copy]) / workdir.relative_to(copy).as_posix()


def is_copy(workdir: Path) -> bool:
    """Whether a workdir is in a bucket, and what is here is gone after this process."""
    return _copy_around(workdir) is not None


def _copy_around(folder: Path) -> Path | None:
    return next((found for found in (folder, *folder.parents) if found in _URLS), None)


@contextmanager
def opened(folder: Path) -> Iterator[Path]:
    """A workdir, or a folder with a model, to work with: itself, or the copy of one in a bucket.

    What is written in the copy is uploaded, now and then and at the end.

    Raises:
      UserError: the storage cannot be used.
    """
    url = url_of(folder)
    if url is None:
        yield folder
        return
    root = remote(url)
    with tempfile.TemporaryDirectory(prefix="bert-jax-") as name:
        copy = Path(name) / root.name
        _URLS[copy] = url
        copy.mkdir()
        download(root, copy, without=LARGE)
        with _Uploads(copy, root) as _UPLOADS[copy]:
            yield copy


def named(text: str) -> str:
    """A message to a person, with the URLs that were given in place of the copies' paths."""
    for copy, url in (_URLS | cached_urls()).items():
        text = text.replace(str(copy), url)
    return text


def refresh(workdir: Path) -> None:
    """Copies a workdir in a bucket anew: another run may have ended there since it was opened."""
    copy = _copy_around(workdir)
    if copy in _UPLOADS:
        _UPLOADS[copy].download()


def upload_logs(workdir: Path) -> None:
    """Uploads now what has changed, if it is in a bucket: no checkpoint is newer than the logs."""
    copy = _copy_around(workdir)
    if copy in _UPLOADS:
        _UPLOADS[copy].upload()


@functools.cache
def source_folder(source: str) -> Path:
    """The folder of weights to start from: itself, or the copy of one in a bucket, for as long as we run."""
    return _UNTIL_EXIT.enter_context(opened(Path(source)))


@contextmanager
def new_folder(out: Path, *, grows: bool = False) -> Iterator[Path]:
    """A folder to be made: itself, or one on this machine that is uploaded when it is done.

    Args:
      grows: it may be in the bucket; then the folders in it are here too, empty.

    Raises:
      FileExistsError: it is in the bucket and does not grow.
    """
    url = url_of(out)
    if url is None:
        yield out
        return
    root = remote(url)
    there = objects_in(root)
    if there and not grows:
        raise FileExistsError(f"{url} exists already; delete it, or give another --out")
    with tempfile.TemporaryDirectory(prefix="bert-jax-") as name:
        here = Path(name) / root.name
        _URLS[here] = url
        for inside in {object.partition("/")[0] for object in there if "/" in object}:
            (here / inside).mkdir(parents=True, exist_ok=True)
        yield here
        for file in sorted(path for path in here.rglob("*") if path.is_file()):
            upload(file, root / file.relative_to(here).as_posix())


_UNTIL_EXIT = contextlib.ExitStack()
atexit.register(_UNTIL_EXIT.close)
_UPLOADS: dict[Path, _Uploads] = {}
_URLS: dict[Path, str] = {}
"""By the copy of a folder."""


class _Uploads:
    """While entered, what changes in a folder is uploaded, each file whole."""

    def __init__(self, folder: Path, target: epath.Path):
        self._folder, self._target = folder, target
        self._uploaded = self._states()
        self._left, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def __enter__(self) -> _Uploads:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left.set()
        self._thread.join()
        for seconds in LAST_TRIES:
            time.sleep(seconds)
            self.upload()
            if self._uploaded == self._states():
                return
        if kind is None:
            raise UserError(f"not all files of {_URLS[self._folder]} could be written; see above")

    def download(self) -> None:
        with self._lock:
            download(self._target, self._folder, without=LARGE)
            self._uploaded = self._states()

    def _run(self) -> None:
        while not self._left.wait(UPLOAD_SECONDS):
            self.upload()

    def upload(self) -> None:
        with self._lock:
            self._upload_changed()

    def _upload_changed(self) -> None:
        for path, state in self._states().items():
            if self._uploaded.get(path) == state:
                continue
            try:
                upload(path, self._target / path.relative_to(self._folder).as_posix())
                self._uploaded[path] = state
            except FileNotFoundError:
                continue  # a file that was replaced while it was looked at: it is there under its other name
            except Exception as error:  # of the network: a log for people ends no run
                log.warning("%s cannot be uploaded (%s)", path.name, refusal(error) or error)

    def _states(self) -> dict[Path, tuple[int, int]]:
        """Size and time of each file."""
        found = {}
        for path in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was replaced meanwhile
                if path.is_file() and not path.name.endswith(".unfinished"):
                    found[path] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found
