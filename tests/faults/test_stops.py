"""Killed or stopped at any moment, and started again: the same bits as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from bert_jax.parallel.exit_status import INTERRUPTED
from bert_jax.parallel.processes import PreemptionSignal
from bert_jax.run import loop
from bert_jax.run.pretrain import pretrain
from bert_jax.workdir.inventory import validation_metrics
from bert_jax.workdir.lease import RENEWAL_SECONDS
from tests.helpers.configs import replace
from tests.helpers.runs import (
    assert_identical,
    finish,
    history,
    is_stopped,
    kill_often,
    metrics,
    start,
    wait_until,
)


@pytest.mark.long
def test_killed_at_a_random_moment(recipe: Path, undisturbed: Path, tmp_path: Path):
    kill_often(recipe, tmp_path / "run", kills=1, seed=0)
    assert_identical(tmp_path / "run", undisturbed)
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 13))
    assert all(entry["step"] in (0, 4, 8, 12) for entry in history(tmp_path / "run", "start"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_twenty_random_moments(recipe: Path, undisturbed: Path, tmp_path: Path, seed: int):
    """Twenty kills, ten times over."""
    kill_often(recipe, tmp_path / "run", kills=20, seed=seed)
    assert_identical(tmp_path / "run", undisturbed)


@pytest.mark.long
def test_a_signal_in_every_phase(
    recipe: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While it compiles, evaluates, saves: each time it saves and leaves, and loses nothing."""
    workdir = tmp_path / "run"
    for name, place, stops in (
        ("SIGTERM", "compile 1", 1),
        ("SIGTERM", "evaluation 6", 6),
        ("SIGINT", "save 8", 9),
    ):
        monkeypatch.setenv("SIGNAL", f"{name} 0 {place}")
        output = finish(start(recipe, workdir), status=INTERRUPTED)
        assert f"{name} at step {stops}: saved; run the same command to resume" in output
        assert metrics(workdir)[-1]["step"] == stops
    monkeypatch.delenv("SIGNAL")
    finish(start(recipe, workdir))
    assert_identical(workdir, undisturbed)
    ends = history(workdir, "end")
    assert [entry["finished"] for entry in ends] == [False, False, False, True]
    assert all(sum(entry["seconds"].values()) > 0 for entry in ends)


@pytest.mark.long
@pytest.mark.parametrize("steps", [2, 3])
def test_an_evaluation_that_was_stopped_is_made_up_for(config, tmp_path: Path, monkeypatch, steps: int):
    """The signal comes with its second batch; the run that is resumed evaluates first, and that once.

    Its checkpoint then has what the evaluation found, though it is the only one and was there before.
    """
    config = replace(config, train__steps=steps, train__eval_every=2, optimizer__warmup_steps=1)
    asked = []

    def reached(self: PreemptionSignal) -> bool:
        asked.append(None)
        return len(asked) == 4  # after each of two steps, before each of two batches

    monkeypatch.setattr(PreemptionSignal, "reached", reached)
    assert not pretrain(config, workdir=tmp_path / "run")
    assert metrics(tmp_path / "run", "validation") == []
    monkeypatch.undo()
    assert pretrain(config, workdir=tmp_path / "run")
    evaluated = list(range(2, steps + 1))
    assert [line["step"] for line in metrics(tmp_path / "run", "validation")] == evaluated
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, steps + 1))
    for step in evaluated:
        (line,) = (line for line in metrics(tmp_path / "run", "validation") if line["step"] == step)
        found = validation_metrics(tmp_path / "run", step)
        assert found is not None
        assert found.items() <= line.items()

    monkeypatch.setattr(loop, "record_evaluation", None)  # nothing is evaluated a second time
    assert pretrain(config, workdir=tmp_path / "run")


@pytest.mark.long
def test_two_runs_do_not_train_in_one_workdir(recipe: Path, undisturbed: Path, tmp_path: Path):
    """The second is refused; the first does not notice. One that was taken over while it stood still ends."""
    workdir = tmp_path / "run"
    first = start(recipe, workdir, env=os.environ | {"SIGNAL": "SIGSTOP 0 save 4"})
    wait_until(lambda: is_stopped(first), first)
    refusal = f"another run trains in {workdir}: process {first.pid} of {socket.gethostname()}, since 20"
    assert refusal in finish(start(recipe, workdir), status=2).splitlines()[-1]
    first.send_signal(signal.SIGCONT)
    finish(first)
    assert_identical(workdir, undisturbed)

    late = tmp_path / "late"
    first = start(recipe, late, "--train.log-every", "1", env=os.environ | {"SIGNAL": "SIGSTOP 0 save 4"})
    wait_until(lambda: is_stopped(first), first)
    owner = json.loads((late / "owner.json").read_text())
    (late / "owner.json").write_text(json.dumps(owner | {"id": "another"}))
    time.sleep(RENEWAL_SECONDS + 1)
    first.send_signal(signal.SIGCONT)
    assert "was taken over by another run while this one stood still" in finish(first, status=2)
