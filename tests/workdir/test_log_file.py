"""A log takes lines while its disk takes none, and has each of them once in the end."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from bert_jax.workdir.history import History
from bert_jax.workdir.log_file import LogFile
from bert_jax.workdir.metrics_file import rewind


class Disk:
    """Takes half of what is written, and then no more, while it is `full`."""

    full = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        open_file = Path.open

        def opened(path: Path, mode: str = "r", **arguments):
            if not self.full or mode != "ab":
                return open_file(path, mode, **arguments)
            return HalfWritten(open_file(path, mode, buffering=0))

        monkeypatch.setattr(Path, "open", opened)


class HalfWritten:
    def __init__(self, file):
        self.file = file

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_full_disk_refuses_is_written_later(tmp_path: Path, monkeypatch, caplog):
    disk, path = Disk(monkeypatch), tmp_path / "log"
    file = LogFile(path)
    file.write(b"one\n")
    disk.full = True
    file.write(b"two\n")
    file.write(b"three\n")
    assert path.read_bytes().startswith(b"one\n")
    disk.full = False
    file.write(b"four\n")
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == f"{path} cannot be written (No space left on device); trying again with what follows"


def test_what_a_killed_process_left_half_written_is_cut_off(tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(b"one\nhalf a li")
    LogFile(path).write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_file_that_somebody_removed_is_begun_anew(tmp_path: Path):
    path = tmp_path / "log"
    file = LogFile(path)
    file.write(b"one\n")
    path.unlink()
    file.write(b"two\n")
    assert path.read_bytes() == b"two\n"


def test_a_history_on_a_full_disk_ends_no_run(tmp_path: Path, monkeypatch):
    disk, history = Disk(monkeypatch), History(tmp_path)
    disk.full = True
    history.add("damaged", step=0)
    disk.full = False
    history.add("damaged", step=3)
    assert [entry["step"] for entry in history.events("damaged")] == [0, 3]


def test_rewinding_keeps_the_steps_before(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": %d, "split": "train"}\n' % step for step in (1, 2, 2, 3)]
    path.write_bytes(b"".join(lines) + b'{"step": 1')
    rewind(path, 2)
    assert path.read_bytes() == b"".join(lines[:3])
    path.write_bytes(b"\xff\n[1]\n" + b"".join(lines))
    rewind(path, 2)
    assert path.read_bytes() == b"\xff\n[1]\n" + b"".join(lines[:3]), (
        "what is no line of metrics does no harm"
    )
    rewind(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()
