"""A process that hangs ends itself, and says where."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bert_jax.parallel.exit_status import HUNG
from bert_jax.run.clock import Clock
from tests.helpers.paths import ROOT

PROGRAM = """
import sys, time
from bert_jax.run.clock import Clock
from bert_jax.run.watchdog import Watchdog
clock = Clock()
with Watchdog(clock, seconds=float(sys.argv[1])):
    for step in range(5):
        clock.enter("step", step=step)
        time.sleep(float(sys.argv[2]))
    def waits_for_ever():
        time.sleep(float(sys.argv[3]))
    clock.enter("save", step=4)
    waits_for_ever()
print("done")
"""


def run(*seconds: float) -> subprocess.CompletedProcess:
    root = ROOT
    line = [sys.executable, "-c", PROGRAM, *map(str, seconds)]
    return subprocess.run(line, cwd=root, capture_output=True, text=True)


@pytest.mark.long
def test_no_progress_ends_the_process_and_tells_where_it_stood():
    """Longer than any one step, shorter than all."""
    done = run(4, 1, 600)
    assert done.returncode == HUNG
    assert "process 0 made no progress for 4 s, in phase save at step 4" in done.stderr
    assert "in waits_for_ever" in done.stderr


@pytest.mark.parametrize("seconds", [0, 60])
def test_progress_and_patience_leave_it_alone(seconds: int):
    done = run(seconds, 0.1, 1)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_clock_gives_all_the_time_to_phases(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 1.0, 4.0, 4.5, 6.5, 10.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = Clock()
    clock.enter("step", step=1)
    clock.enter("save", step=1)
    clock.enter("step", step=2)
    assert clock.seconds == {"start": 1.0, "step": 5.0, "save": 0.5}
    assert clock.since == 4.5
    assert clock.goodput == 8.5 / 10
