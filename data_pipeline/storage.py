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

# etils looks once whether it is to use TensorFlow's own client, which cannot be pointed elsewhere.
os.environ.setdefault("EPATH_USE_TF", "0")


def url_of(path: Path | str) -> str | None:
    """The URL that a path stands for, of which pathlib has made one slash of two; None if it is local."""
    found = re.match(r"([a-z][a-z0-9+.-]*):(?:/+(.*)|$)", str(path), re.IGNORECASE)
    return f"{found[1].lower()}://{(found[2] or '').rstrip('/')}" if found else None


def remote(url: str) -> epath.Path:
    """A folder in a bucket.

    Raises:
      UserError: the storage is not Google Cloud's, or what reads it is not installed.
    """
    scheme, _, place = url.partition("://")
    if scheme == "gs" and (not place or set("#?") & set(place)):
        raise UserError(f"{url} is not of the form gs://BUCKET/PATH, without # and ?")
    if scheme != "gs":
        raise UserError(
            f"{url}: folders are local or gs://BUCKET/PATH, not {scheme}://; Orbax writes to no other storage"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{url} needs gcsfs: pip install 'bert-jax[gcs]'")
    import fsspec.config
    from etils import epath

    # What another process or TensorStore writes is in no listing that was kept.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(url)


def store(folder: epath.Path) -> tuple[Any, str]:
    """fsspec's file system of a folder in a bucket, and its path there."""
    import fsspec.core

    return fsspec.core.url_to_fs(folder.as_posix())


def objects_in(folder: epath.Path) -> dict[str, dict[str, Any]]:
    """What the store knows of each object below a folder in a bucket, by its path from there.

    Without the empty objects that consoles and mounts make for folders.
    """
    files, root = store(folder)
    found = files.find(root, detail=True)
    return {name.removeprefix(root).lstrip("/"): info for name, info in found.items() if name[-1] != "/"}


def check_may_delete(folder: epath.Path) -> None:
    """Orbax deletes old checkpoints, and asks the bucket what kind it is before.

    Raises:
      UserError: it may not ask.
    """
    from google.cloud import storage  # type: ignore[attr-defined]

    bucket = folder.as_posix().removeprefix("gs://").partition("/")[0]
    try:
        storage.Client().get_bucket(bucket)
    except Exception as error:
        raise UserError(
            f"the bucket of {folder} does not tell what kind it is ({refusal(error) or error}): the account "
            "needs storage.buckets.get, as of roles/storage.legacyBucketReader, and a GOOGLE_CLOUD_PROJECT"
        ) from error


def refusal(error: BaseException) -> str | None:
    """What a store said, in a line, if that is what the error is of: a permission, a limit, the network."""
    if type(error).__module__.partition(".")[0] not in ("aiohttp", "gcsfs", "google"):
        return None
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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


def cached_urls() -> dict[Path, str]:
    """The URLs of which this process has used a copy, by the copy."""
    return dict(_CACHED)


_CACHED: dict[Path, str] = {}


@functools.cache
def cached(url: str) -> Path:
    """A copy of a folder in a bucket on this machine, made once; one process a machine copies, others wait.

    Names, sizes and checksums of the store's objects name it: when they are others, so is the copy.
    """
    folder = remote(url)
    try:
        objects = objects_in(folder)
    except FileNotFoundError:  # the bucket
        objects = {}
    found = sorted((name, i["size"], i.get("md5Hash"), i.get("crc32c")) for name, i in objects.items())
    if not found:
        raise FileNotFoundError(f"{url} is empty, or not there")
    place = cache_folder() / hashlib.sha256(repr((url, found)).encode()).hexdigest()[:16]
    copy = place / "whole" / folder.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            unfinished = place / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            download(folder, unfinished, progress=True)
            os.replace(unfinished, copy)
    _CACHED[copy] = url
    return copy
