"""A process that hangs ends itself, and says where."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bert_jax.clock import Clock
from bert_jax.watchdog import HUNG

PROGRAM = """
import sys, time
from bert_jax.clock import Clock
from bert_jax.watchdog import Watchdog
clock = Clock()
with Watchdog(clock, seconds=float(sys.argv[1])):
    for step in range(4):
        clock.enter("step", step=step)
        time.sleep(0.4)
    def waits_for_ever():
        time.sleep(3)
    clock.enter("save", step=4)
    waits_for_ever()
print("done")
"""


def run(seconds: str) -> subprocess.CompletedProcess:
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-c", PROGRAM, seconds], cwd=root, capture_output=True, text=True)


def test_no_progress_ends_the_process_and_tells_where_it_stood():
    """Longer than any one step, shorter than all."""
    done = run("1.2")
    assert done.returncode == HUNG
    assert "process 0 made no progress for 1.2 s, in phase save at step 4" in done.stderr
    assert "in waits_for_ever" in done.stderr


@pytest.mark.parametrize("seconds", ["0", "30"])
def test_progress_and_patience_leave_it_alone(seconds: str):
    done = run(seconds)
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
