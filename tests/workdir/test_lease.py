"""One run at a time in a workdir; one that is gone is not waited for longer than its lease."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_jax.workdir import lease
from bert_jax.workdir.lease import FILE, Lease
from data_pipeline.errors import UserError


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of a second, renewed ten times in it."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.1)
    for name in (*lease.JOBS, *lease.JOBS.values()):
        monkeypatch.delenv(name, raising=False)


def owner(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / FILE).read_text())


def rewrite(workdir: Path, **fields: Any) -> None:
    """Makes the owner another one."""
    (workdir / FILE).write_text(json.dumps(owner(workdir) | fields))


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A workdir whose owner, of another machine, is gone without a word."""
    Lease(tmp_path)._take()
    rewrite(tmp_path, id="other", machine="other", host="far-away", process=1)
    return tmp_path


@pytest.fixture
def renewed(left: Path) -> Iterator[Path]:
    """A workdir whose owner, of another machine, lives."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.1):
            rewrite(left, renewals=owner(left)["renewals"] + 1)

    thread = threading.Thread(target=renew)
    thread.start()
    yield left
    ended.set()
    thread.join()


def test_a_workdir_is_owned_and_given_back(tmp_path: Path):
    with Lease(tmp_path / "run"):
        first = owner(tmp_path / "run")
        assert first["process"] == os.getpid()
        time.sleep(0.5)
        assert owner(tmp_path / "run")["renewals"] > first["renewals"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_second_owner_on_this_machine_is_refused_at_once(tmp_path: Path):
    with Lease(tmp_path):
        message = rf"another run trains in {tmp_path}: process {os.getpid()} of \S+, since 20\S+; end it"
        started = time.monotonic()
        with pytest.raises(UserError, match=message), Lease(tmp_path):
            pass
        assert time.monotonic() - started < 0.5
        assert owner(tmp_path)["process"] == os.getpid()


def test_a_process_that_was_killed_here_is_not_waited_for(tmp_path: Path):
    program = """
import sys, pathlib
from bert_jax.workdir.lease import Lease
Lease(pathlib.Path(sys.argv[1]))._take()
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    started = time.monotonic()
    with Lease(tmp_path):
        assert time.monotonic() - started < 0.5


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path):
    Lease(tmp_path)._take()
    rewrite(tmp_path, id="other", born="17")
    with Lease(tmp_path):
        assert owner(tmp_path)["id"] != "other"


def test_an_owner_elsewhere_that_lives_is_refused(renewed: Path):
    with pytest.raises(UserError, match="process 1 of far-away"), Lease(renewed):
        pass


def test_an_owner_elsewhere_that_is_gone_is_waited_for_as_long_as_its_lease(left: Path, caplog):
    started = time.monotonic()
    with Lease(left):
        assert 1 <= time.monotonic() - started < 3
        assert owner(left)["host"] != "far-away"
    assert "was left by process 1 of far-away, or is still trained in" in caplog.text


def test_a_restart_of_the_same_job_takes_over_at_once(left: Path, monkeypatch: pytest.MonkeyPatch):
    rewrite(left, job="17")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    started = time.monotonic()
    with Lease(left):
        assert time.monotonic() - started < 0.8


def test_a_second_start_in_a_job_is_none_of_its_restarts(renewed: Path, monkeypatch: pytest.MonkeyPatch):
    """Two `srun` in one allocation."""
    rewrite(renewed, job="17")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with pytest.raises(UserError, match="another run trains in"), Lease(renewed):
        pass


def test_of_two_that_start_at_the_same_moment_one_is_refused(tmp_path: Path):
    """Both have seen no owner; the one that writes last has it."""

    def claim_too() -> None:
        while not (tmp_path / FILE).exists():
            time.sleep(0.01)
        rewrite(tmp_path, id="other", machine="other", host="far-away")

    other = threading.Thread(target=claim_too)
    other.start()
    with pytest.raises(UserError, match=r"another run trains in .* of far-away"), Lease(tmp_path):
        pass
    other.join()
    assert owner(tmp_path)["id"] == "other"


def test_a_store_that_refuses_for_a_while_ends_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    class HttpError(Exception):
        """What gcsfs raises is an Exception and nothing else."""

    HttpError.__module__ = "gcsfs.retry"
    replace = lease.replace_text
    with Lease(tmp_path):

        def refuse(*_: object) -> None:
            raise HttpError("too many requests, 429")

        monkeypatch.setattr(lease, "replace_text", refuse)
        time.sleep(0.4)
        monkeypatch.setattr(lease, "replace_text", replace)
        before = owner(tmp_path)["renewals"]
        time.sleep(0.4)
        assert owner(tmp_path)["renewals"] > before
    assert "owner.json cannot be renewed (HttpError: too many requests, 429)" in caplog.text


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"process": "x"}'])
def test_a_file_that_names_nobody_is_no_owner(tmp_path: Path, content: str):
    (tmp_path / FILE).write_text(content)
    with Lease(tmp_path):
        assert owner(tmp_path)["process"] == os.getpid()
