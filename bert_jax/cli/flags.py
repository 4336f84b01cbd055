"""What the flags of several verbs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from bert_jax.config import Config
from data_pipeline.errors import UserError
from data_pipeline.storage import cache_folder, url_of

FromFile = Annotated[Config, tyro.conf.arg(name="")]
"""The config of a CONFIG file, with a flag for each field and no prefix."""


def at_least_1(flag: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{flag} is {value}; it must be at least 1")


def check_dimensions(value: int | None) -> None:
    if value is not None:
        at_least_1("--dimensions", value)


def check_folder_of(flag: str, file: Path | None) -> None:
    """Checks before the work, not after it, that a file can be written.

    Raises:
      FileNotFoundError, UserError: its folder is not there, or in a bucket.
    """
    if file is None:
        return
    if url := url_of(file):
        raise UserError(f"{flag} {url} is in a bucket; files are written on this machine: give a path of it")
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f"{flag} {file}: there is no folder {file.parent}; make it, or give another {flag}"
        )


def check_is_folder(flag: str, folder: Path | None) -> None:
    """Raises UserError if it is there, and a file."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} {folder} is a file; give a folder")


def compiled_programs(workdir: Path) -> Path:
    """Where runs that are neighbours share compiled programs."""
    from bert_jax.workdir.bucket import is_copy

    return (cache_folder() if is_copy(workdir) else workdir.absolute().parent) / "compiled"
