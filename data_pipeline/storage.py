"""Object storage: folders of gs://BUCKET/PATH, without a mount. Standard library, etils and fsspec."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    from etils import epath

AT_ONCE = 16
"""Objects that are copied at the same time."""


def url_of(path: Path | str) -> str | None:
    """The URL that a path stands for, of which pathlib has made one slash of two; None if it is local."""
    found = re.match(r"([a-z][a-z0-9+.-]*):/+(.*)", str(path))
    return f"{found[1]}://{found[2].rstrip('/')}" if found else None


def remote(url: str) -> epath.Path:
    """A folder in a bucket.

    Raises:
      UserError: the storage is not Google Cloud's, or what reads it is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme != "gs":
        raise UserError(
            f"{url}: folders are local or gs://BUCKET/PATH, not {scheme}://; Orbax writes to no other storage"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{url} needs gcsfs: pip install 'bert-jax[gcs]'")
    import fsspec.config
    from etils import epath

    os.environ.setdefault("EPATH_USE_TF", "0")  # TensorFlow's own client cannot be pointed elsewhere
    # What another process or TensorStore writes is in no listing that was kept.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(url)


def store(folder: epath.Path) -> tuple[Any, str]:
    """fsspec's file system of a folder in a bucket, and its path there."""
    import fsspec.core

    return fsspec.core.url_to_fs(folder.as_posix())


def objects_in(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """What the store knows of each object below a folder in a bucket, by its path from there."""
    files, root = store(folder)
    found = files.find(root, detail=True)
    return {name.removeprefix(root).lstrip("/"): info for name, info in found.items()}


def download(
    folder: epath.Path, target: Path, *, without: Collection[str] = (), progress: bool = False
) -> None:
    """Copies what is below a folder in a bucket.

    Args:
      without: names of folders and files that are left out, wherever they are.
      progress: shows a bar on a terminal.

    Raises:
      UserError: an object's name leads out of the folder.
    """
    from tqdm import tqdm

    files, root = store(folder)
    wanted = {n: i for n, i in objects_in(folder).items() if n and not set(n.split("/")) & set(without)}
    total = sum(info["size"] for info in wanted.values())
    disable = None if progress else True
    with tqdm(total=total, unit="B", unit_scale=True, desc=folder.name, disable=disable) as bar:
        for name in wanted:
            if ".." in Path(name).parts:
                raise UserError(f"{folder} has an object {name!r}, which leads out of it")
            (target / name).parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(wanted), AT_ONCE):
            names = list(wanted)[start : start + AT_ONCE]
            files.get([f"{root}/{name}" for name in names], [str(target / name) for name in names])
            for name in names:
                size = (target / name).stat().st_size
                if size != wanted[name]["size"]:
                    raise OSError(f"{folder / name}: {size} of {wanted[name]['size']} bytes were read")
                bar.update(size)


def replace_text(file: Path | epath.Path, text: str) -> None:
    """Writes a file, of which a reader sees the old text or the new one, by renaming or as a whole object."""
    if url_of(file):
        file.write_text(text)
        return
    unfinished = file.parent / f"{file.name}.unfinished"
    unfinished.write_text(text)
    os.replace(unfinished, file)


def upload(file: Path, target: epath.Path) -> None:
    """Writes a file to an object, whole."""
    files, path = store(target)
    files.put_file(str(file), path)


def dataset_folder(directory: str) -> Path:
    """data.dir, to be read: itself, or the copy of one in a bucket."""
    url = url_of(directory)
    return Path(directory) if url is None else cached(url)


def cache_folder() -> Path:
    """Where copies lie on this machine: BERT_JAX_CACHE, or ~/.cache/bert-jax."""
    return Path(os.environ.get("BERT_JAX_CACHE", Path.home() / ".cache" / "bert-jax"))


@functools.cache
def cached(url: str) -> Path:
    """A copy of a folder in a bucket on this machine, made once; one process a machine copies, others wait.

    Names, sizes and checksums of the store's objects name it: when they are others, so is the copy.
    """
    folder = remote(url)
    objects = objects_in(folder).items()
    found = sorted((name, info["size"], info.get("md5Hash"), info.get("crc32c")) for name, info in objects)
    if not found:
        raise FileNotFoundError(f"{url} is empty, or not there")
    copy = cache_folder() / hashlib.sha256(repr((url, found)).encode()).hexdigest()[:16] / folder.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (copy.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            unfinished = copy.with_name("unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            download(folder, unfinished, progress=True)
            os.replace(unfinished, copy)
    return copy
