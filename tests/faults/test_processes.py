"""Several processes on loopback: they stop together, do not wait for ever, and come back in other numbers."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from bert_jax.config import Config
from bert_jax.parallel.exit_status import HUNG, INTERRUPTED
from tests.helpers.paths import ROOT
from tests.helpers.runs import (
    assert_near,
    finish,
    flip_a_bit,
    history,
    metrics,
    start,
    start_several,
    state,
    wait_until,
)


@pytest.mark.slow
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
    first, second = start_several(recipe, workdir, *flags, "--train.watchdog-seconds", "40", processes=2)
    wait_until(lambda: len(metrics(workdir)) >= 6, first, second)
    second.send_signal(signal.Signals[name])
    since = time.monotonic()
    output = first.communicate(timeout=180)[0]
    assert time.monotonic() - since < 100
    second.kill()
    second.communicate()
    if name == "SIGSTOP":
        assert first.returncode == HUNG, output
        assert "process 0 made no progress for 40 s, in phase " in output
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


SPIKE = """
from bert_jax.run import loss_monitor
loss_monitor.is_spike = lambda losses, zscore: len(losses) == 9
"""
LATE = "import tests.faults.late_files\n"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_see_their_files_late_train_on_the_same_batches(
    recipe: Path, tmp_path: Path, processes: int
):
    """Stopped in an evaluation, which is made up for; a rollback; a damaged checkpoint; restarts."""
    spiking, late = tmp_path / "spiking.py", tmp_path / "late.py"
    spiking.write_text(recipe.read_text() + SPIKE)
    late.write_text(spiking.read_text() + LATE)
    flags = ["--train.max-rollbacks", "1", "--checkpoint.every", "2"]
    finish(start(spiking, tmp_path / "alone", *flags))

    workdir = tmp_path / "run"
    disk = os.environ | {"LATE_SECONDS": "4", "LATE_JOURNAL": str(tmp_path / "journal")}

    def run(*more: str, status: int, **variables: str) -> list[str]:
        several = start_several(
            late, workdir, *flags, *more, processes=processes, environment=disk | variables
        )
        return [finish(process, status=status) for process in several]

    outputs = run(status=INTERRUPTED, SIGNAL="SIGTERM 0 evaluation 6")
    assert "SIGTERM at step 6: saved" in outputs[0]
    run("--train.stop-at", "10", status=0)
    flip_a_bit(workdir / "checkpoints" / "10")
    outputs = run(status=0)
    assert "resuming from step 8 of" in outputs[0]
    (rollback,) = history(workdir, "rollback")
    assert (rollback["at"], rollback["to"], rollback["skipped_rows"]) == (9, 6, 48)
    assert_near(workdir, tmp_path / "alone", atol=2e-6)


EXAMPLES = [
    ("the value of it", "value"),
    ("a name", "name"),
    ("of a value", "value"),
    ("names of", "name"),
] * 4


@pytest.mark.slow
def test_patience_and_seeds_with_files_that_are_seen_late(undisturbed: Path, tmp_path: Path):
    """Each seed ends when it gets no better, in all processes at once, and the next one begins."""
    examples, late = tmp_path / "examples.tsv", tmp_path / "late.py"
    examples.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in EXAMPLES))
    plain = ROOT / "configs" / "finetune_classification.py"
    late.write_text(LATE + plain.read_text())
    flags = [
        *(
            "--init.source",
            str(undisturbed),
            "--task.train",
            str(examples),
            "--task.validation",
            str(examples),
        ),
        *("--task.sequence-length", "16", "--task.epochs", "20", "--task.patience", "2"),
        *("--train.global-batch-size", "8", "--optimizer.learning-rate", "1e-3", "--seeds", "0", "1"),
    ]
    finish(start(plain, tmp_path / "alone", *flags, verb="finetune"))
    disk = os.environ | {"LATE_SECONDS": "4", "LATE_JOURNAL": str(tmp_path / "journal")}
    for process in start_several(
        late, tmp_path / "run", *flags, processes=2, environment=disk, verb="finetune"
    ):
        finish(process)
    for seed in ("seed-0", "seed-1"):
        evaluated = metrics(tmp_path / "run" / seed, "validation")
        assert len(evaluated) < 20
        assert_near(tmp_path / "run" / seed, tmp_path / "alone" / seed, atol=1e-4)
