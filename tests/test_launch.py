"""Launchers: each ends in the same `bert-jax pretrain` line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, SECONDS, metrics, wait_until


def local(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "launch/local.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def test_processes_are_told_apart_and_stop_together(recipe: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    flags = ["--workdir", str(workdir), "--train.steps", "100000", "--train.eval-every", "100000"]
    launcher = local("2", "--", str(recipe), *flags)
    wait_until(lambda: len(metrics(workdir)) >= 2, launcher)
    launcher.send_signal(signal.SIGINT)
    output = launcher.communicate(timeout=SECONDS)[0]
    assert launcher.returncode == 75, output
    lines = output.splitlines()
    assert any(line.startswith("[0] step 2/100000 train") for line in lines)
    assert any(line.startswith("[1] SIGINT at step") for line in lines)
    assert "step 2/100000 train" in (tmp_path / "run.logs" / "process-0.log").read_text()


def test_a_failure_is_that_of_all(recipe: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("important")
    launcher = local("2", "--", str(recipe), "--workdir", str(tmp_path / "run"))
    output = launcher.communicate(timeout=SECONDS)[0]
    assert launcher.returncode == 2, output
    assert "holds no run, but thesis.txt" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "--", "configs/demo.py", "--workdir", "x"], "N and --devices must be at least 1"),
        (["2", "--", "configs/demo.py"], "give the run's --workdir"),
    ],
)
def test_a_line_that_cannot_work_is_refused(arguments: list[str], message: str):
    launcher = local(*arguments)
    output = launcher.communicate(timeout=SECONDS)[0]
    assert launcher.returncode == 2
    assert message in output
