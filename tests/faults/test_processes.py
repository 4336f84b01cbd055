"""Several processes on loopback: they stop together, do not wait for ever, and come back in other numbers."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from bert_jax.config import Config
from bert_jax.parallel.exit_status import HUNG, INTERRUPTED
from tests.helpers.runs import assert_near, finish, history, metrics, start, start_several, state, wait_until


def test_a_run_goes_on_in_another_number_of_processes(
    recipe: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two processes with a mesh of 2 x 2, stopped by a signal to one of them; then one, cut otherwise."""
    workdir = tmp_path / "run"
    monkeypatch.setenv("SIGNAL", "SIGTERM 1 step 3")
    both = start_several(recipe, workdir, "--mesh.fsdp", "2", processes=2, devices=2)
    outputs = [finish(process, status=INTERRUPTED) for process in both]
    stopped_at = metrics(workdir)[-1]["step"]
    assert 3 <= stopped_at < 12
    assert f"at step {stopped_at}: saved" in outputs[0]
    assert f"SIGTERM at step {stopped_at}: saved" in outputs[1]
    monkeypatch.delenv("SIGNAL")
    output = finish(start(recipe, workdir, "--train.microbatches", "4", "--model.scan-unroll", "2"))
    assert f"resuming from step {stopped_at} of" in output
    assert_near(workdir, undisturbed, atol=2e-6)
    starts = history(workdir, "start")
    assert [(entry["processes"], entry["devices"]) for entry in starts] == [(2, 4), (1, 1)]
    assert "train.microbatches is 1, not 4" in starts[1]["changes"]
    assert {"jax", "optax", "orbax-checkpoint"} < starts[0]["versions"].keys()


@pytest.mark.slow
def test_one_two_four_and_one_again(recipe: Path, undisturbed: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    finish(start(recipe, workdir, "--train.stop-at", "3"))
    for processes, stop in ((2, 6), (4, 9)):
        for process in start_several(recipe, workdir, "--train.stop-at", str(stop), processes=processes):
            finish(process)
    finish(start(recipe, workdir))
    assert_near(workdir, undisturbed, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGSTOP", "SIGKILL"])
def test_nobody_waits_for_ever_for_a_process_that_is_gone(recipe: Path, tmp_path: Path, name: str):
    """The others end; what one of them says tells where it stood."""
    workdir = tmp_path / "run"
    flags = ["--train.steps", "100000", "--train.eval-every", "100000", "--checkpoint.every", "2"]
    first, second = start_several(recipe, workdir, *flags, "--train.watchdog-seconds", "15", processes=2)
    wait_until(lambda: len(metrics(workdir)) >= 6, first, second)
    second.send_signal(signal.Signals[name])
    since = time.monotonic()
    output = first.communicate(timeout=120)[0]
    assert time.monotonic() - since < 90
    second.kill()
    second.communicate()
    if name == "SIGSTOP":
        assert first.returncode == HUNG, output
        assert "process 0 made no progress for 15 s, in phase " in output
        assert "Current thread" in output
        assert "loop.py" in output
    else:
        assert first.returncode not in (0, INTERRUPTED), output
    copied = tmp_path / "copy"
    shutil.copytree(workdir, copied)
    assert state(copied)[".step"] >= 2, "a good checkpoint is left"


def test_processes_that_disagree_stop(recipe: Path, tmp_path: Path):
    """All at once, before anything is written; the one that differs is named."""
    workdir = tmp_path / "run"
    both = start_several(recipe, workdir, processes=2, own_flags=[[], ["--optimizer.learning-rate", "0.5"]])
    for process in both:
        output = finish(process, status=2)
        assert "optimizer.learning_rate is 0.5 on process 1 (host " in output, output
        assert ", and 0.001 on 1 of 2" in output
    assert not workdir.exists()


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_named(recipe: Path, tmp_path: Path):
    """By all, after a minute: over a network a new file may be seen late."""
    own_flags = [["--workdir", str(tmp_path / name)] for name in ("one", "other")]
    for process in start_several(recipe, tmp_path / "run", processes=2, own_flags=own_flags):
        assert "on a disk that is not shared on process 1" in finish(process, status=2)


def test_a_copy_of_the_data_that_is_not_whole_is_named(recipe: Path, config: Config, tmp_path: Path):
    """Each process may read a copy of its own."""
    shutil.copytree(config.data.dir, tmp_path / "copy")
    shard = next(path for path in (tmp_path / "copy").rglob("*-train*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    folders = (config.data.dir, str(tmp_path / "copy"))
    own_flags = [["--data.dir", folder] for folder in folders]
    for process in start_several(recipe, tmp_path / "run", processes=2, own_flags=own_flags):
        assert "what is in data.dir is " in finish(process, status=2)


def test_half_an_environment_is_refused(recipe: Path, tmp_path: Path):
    process = start(recipe, tmp_path / "run", env={"JAX_NUM_PROCESSES": "2", "JAX_PLATFORMS": "cpu"})
    assert "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS" in finish(process, status=2)


STALE_LOGS = '''
import jax
from pathlib import Path
from bert_jax.run import loss_monitor

loss_monitor.is_spike = lambda losses, zscore: len(losses) == 9
read_bytes, read_text = Path.read_bytes, Path.read_text

def stale(path, content, empty):
    """Process 1 sees the logs as a network's disk may show them: as they were at the beginning."""
    return empty if path.suffix == ".jsonl" and jax.process_index() == 1 else content

Path.read_bytes = lambda path: stale(path, read_bytes(path), b"")
Path.read_text = lambda path, *args, **kwargs: stale(path, read_text(path, *args, **kwargs), "")
'''


def test_processes_with_different_ages_of_the_logs_train_on_the_same_batches(recipe: Path, tmp_path: Path):
    """A rollback, a stop behind it, and a restart: process 1 never sees what process 0 has written."""
    spiking = tmp_path / "recipe.py"
    spiking.write_text(STALE_LOGS + recipe.read_text())
    flags = ["--train.max-rollbacks", "1", "--checkpoint.every", "2", "--train.eval-every", "100"]
    finish(start(spiking, tmp_path / "alone", *flags))
    for stop in (10, 12):
        for process in start_several(
            spiking, tmp_path / "run", *flags, "--train.stop-at", str(stop), processes=2
        ):
            finish(process)
    (rollback,) = history(tmp_path / "run", "rollback")
    assert (rollback["at"], rollback["to"], rollback["skipped_rows"]) == (9, 6, 48)
    assert_near(tmp_path / "run", tmp_path / "alone", atol=2e-6)
