"""Launchers: each ends in the same `bert-jax pretrain` line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.runs import SECONDS, assert_near, finish, history, metrics, start, wait_until


def local(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "launch/local.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_demo_rehearsed_in_two_and_in_four_processes(tmp_path: Path):
    """The losses of one process; and once more after one of two was killed."""
    demo = Path("configs/demo.py")
    data = ["--data.dir", str(tmp_path / "data")]
    flags = [*data, "--train.stop-at", "40", "--train.log-every", "1", "--checkpoint.every", "20"]
    subprocess.run([sys.executable, "-m", "bert_jax", "prepare", demo, *data], cwd=ROOT, check=True)
    finish(start(demo, tmp_path / "1", *flags))

    four = local("4", "--", str(demo), "--workdir", str(tmp_path / "4"), *flags)
    assert "[0] 4 process(es) with 1 x cpu each" in finish(four)
    assert_near(tmp_path / "4", tmp_path / "1", atol=2e-5)

    line = ["2", "--", str(demo), "--workdir", str(tmp_path / "2"), *flags]
    two = local(*line)
    wait_until(lambda: len(metrics(tmp_path / "2")) >= 25, two)
    children = subprocess.run(["pgrep", "-P", str(two.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    since = time.monotonic()
    output = two.communicate(timeout=SECONDS)[0]
    assert time.monotonic() - since < 40, "the other one leaves in time"
    assert two.returncode == 128 + signal.SIGKILL, output
    assert "process 1 ended with status -9; ending the others" in output
    finish(local(*line))
    assert [entry["step"] for entry in history(tmp_path / "2", "start")] == [0, 20]
    assert_near(tmp_path / "2", tmp_path / "1", atol=2e-5)


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
