"""Damaged checkpoints, and disks that take no more."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.cli import main as cli
from bert_jax.interop.load import load_workdir
from bert_jax.parallel import sharding
from bert_jax.training.step import init_state
from bert_jax.workdir import digests, run_files
from bert_jax.workdir.checkpoint import Checkpoints, read_state
from bert_jax.workdir.digests import BackgroundDigests
from bert_jax.workdir.inventory import best_step, damage, steps_of, validation_value
from bert_jax.workdir.progress import Progress
from bert_jax.workdir.run_files import load_spec
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import (
    assert_identical,
    finish,
    flip_a_bit,
    history,
    is_stopped,
    largest,
    metrics,
    start,
    wait_until,
    whole_lines,
)


def truncate(folder: Path) -> None:
    with largest(folder).open("r+b") as file:
        file.truncate(largest(folder).stat().st_size // 2)


def add_a_file(folder: Path) -> None:
    (folder / "params" / "stray").write_text("")


def point_elsewhere(folder: Path) -> None:
    """A path that leaves the folder is compared, and never opened."""
    (folder / "digests.json").write_text('{"../../../../etc/passwd": [1, "0"]}')


def spoil_digests(folder: Path) -> None:
    (folder / "digests.json").write_text('{"a": 1}')


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "commit_success.txt").unlink(), "commit_success.txt is missing"),
    (lambda folder: (folder / "digests.json").unlink(), "digests.json is missing"),
    (
        lambda folder: (folder / "digests.json").write_text('{"a": 1}'),
        "digests.json has no sizes and digests",
    ),
    (lambda folder: largest(folder).unlink(), " is missing"),
    (truncate, " bytes, not "),
    (flip_a_bit, "has other bytes than were written"),
    (add_a_file, "params/stray was not there when it was written"),
    (point_elsewhere, "was not there when it was written"),
]


@pytest.mark.long
@pytest.mark.parametrize(("spoil", "message"), DAMAGES, ids=[message for _, message in DAMAGES])
def test_damage_is_named_and_the_newest_good_one_is_used(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog, spoil, message: str
):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    spoil(workdir / "checkpoints" / "12")
    assert cli.run(["checkpoints", "--workdir", str(workdir)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [("DAMAGED" in line, message in line) for line in lines] == [(False, False)] * 2 + [(True, True)]
    assert load_workdir(workdir)[2] == 8, "a look at it"
    assert (workdir / "checkpoints" / "12").exists()
    with pytest.raises((ValueError, FileNotFoundError), match="step 12"):
        load_workdir(workdir, step=12)
    spec = load_spec(workdir)
    with Checkpoints(workdir, spec) as checkpoints:
        assert checkpoints.latest_step() == 8
        state, progress = checkpoints.restore(sharding.make_mesh(spec.config.mesh))
        assert (int(state.step), len(progress.losses)) == (8, 8)
    assert "step 12" in caplog.text
    assert message in caplog.text
    assert (workdir / "damaged" / "12").exists()
    assert [entry["step"] for entry in history(workdir, "damaged")] == [12]


@pytest.mark.long
def test_a_run_goes_on_from_before_the_damage(recipe: Path, undisturbed: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    for step in ("8", "12"):
        flip_a_bit(workdir / "checkpoints" / step)
    output = finish(start(recipe, workdir))
    assert "the checkpoint of step 12" in output
    assert "the checkpoint of step 8" in output
    assert "resuming from step 4 of" in output
    assert_identical(workdir, undisturbed)


def test_a_checkpoint_without_digests_is_used_and_says_so(
    config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog
):
    """Its run was killed while they were computed: a commit does not wait for them."""
    spec, read = spec_of(config), threading.Event()
    run_thread = BackgroundDigests._run
    monkeypatch.setattr(BackgroundDigests, "_run", lambda self: read.wait() and run_thread(self))
    with Checkpoints(tmp_path, spec) as checkpoints:
        run_files.write(spec, tmp_path)
        checkpoints.save(1, init_state(spec), Progress())
        checkpoints.poll_save(wait=True)
        with caplog.at_level("INFO"):
            assert load_workdir(tmp_path)[2] == 1
        assert "the checkpoint of step 1 has no digests: its sizes are right" in caplog.text
        assert cli.run(["checkpoints", "--workdir", str(tmp_path)]) == 0
        assert "no digests: its sizes are right, its bytes were not compared" in capsys.readouterr().out
        read.set()
        checkpoints.wait()
        assert cli.run(["checkpoints", "--workdir", str(tmp_path)]) == 0
        assert "no digests" not in capsys.readouterr().out
    truncate(tmp_path / "checkpoints" / "1")
    assert " bytes, not " in (damage(tmp_path, 1) or "")


@pytest.mark.long
def test_who_uses_a_model_reads_its_parameters_only(undisturbed: Path, tmp_path: Path):
    """The optimizer's moments, two thirds of a checkpoint, may as well not be there."""
    shutil.copytree(undisturbed, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "12"
    shutil.rmtree(folder / "optimizer" / "ocdbt.process_0")
    shutil.rmtree(folder / "optimizer" / "d")
    digests.write_sizes(folder)
    whole, alone = (load_workdir(run, step=12)[1] for run in (undisturbed, tmp_path / "run"))
    assert jax.tree.map(np.array_equal, whole, alone) == jax.tree.map(lambda _: True, whole)
    with pytest.raises(ValueError, match="opt_state"):
        read_state(tmp_path / "run", load_spec(tmp_path / "run"), step=12)


LARGER = ["--model.hidden-size", "128", "--model.intermediate-size", "512"]
"""A model whose checkpoints have files that are larger than the tokenizer's."""


def start_limited(recipe: Path, workdir: Path, *flags: str) -> subprocess.Popen:
    """A process none of whose files may become larger than 400 kB."""
    process = start(recipe, workdir, *LARGER, *flags)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (400_000, 400_000))
    return process


@pytest.mark.slow
def test_a_disk_that_takes_no_checkpoint_is_told_of_at_once(recipe: Path, tmp_path: Path):
    """The run goes on, to its end, and the next one has lost time and nothing else."""
    workdir = tmp_path / "run"
    output = finish(start_limited(recipe, workdir), status=2)
    assert "a checkpoint cannot be written: File too large" in output
    assert "Traceback" not in output, "of its threads"
    assert [line["step"] for line in metrics(workdir)] == list(range(1, 13))
    assert "step 12/12 train" in output.partition("trying again at the next one (1)")[2], "it went on"
    assert "the last checkpoint could not be written" in output.splitlines()[-1]
    assert finish(start(recipe, workdir, *LARGER)).count("train:") == 12


@pytest.mark.slow
def test_too_many_failures_in_a_row_end_the_run(recipe: Path, tmp_path: Path):
    flags = ["--checkpoint.every", "1", "--checkpoint.max-save-failures", "1"]
    output = finish(start_limited(recipe, tmp_path / "run", *flags), status=2)
    assert "File too large" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert metrics(tmp_path / "run")[-1]["step"] < 12


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system for a tokenizer and one checkpoint: a second one never fits beside the first."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1700k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_takes_no_log_ends_no_run(
    recipe: Path, undisturbed: Path, small_disk: Path, tmp_path: Path
):
    """Metrics, history and TensorBoard's file are on a full disk, checkpoints are not; then there is room."""
    workdir, filler = tmp_path / "run", small_disk / "filler"
    workdir.mkdir()
    for name in ("metrics.jsonl", "history.jsonl"):
        (small_disk / name).touch()
        (workdir / name).symlink_to(small_disk / name)
    (workdir / "tensorboard").symlink_to(small_disk, target_is_directory=True)
    with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
        file.write(bytes(2**21))
    process = start(recipe, workdir, env=os.environ | {"SIGNAL": "SIGSTOP 0 save 8"})
    wait_until(lambda: is_stopped(process), process)
    assert not metrics(workdir)
    filler.unlink()
    process.send_signal(signal.SIGCONT)
    output = finish(process)
    for name in ("metrics.jsonl", "history.jsonl", "tensorboard/events.out.tfevents"):
        assert output.count(f"{workdir / name}") == 1
    assert_identical(workdir, undisturbed)
    assert [entry["event"] for entry in map(json.loads, whole_lines(workdir / "history.jsonl"))] == [
        "start",
        "end",
    ]


@pytest.mark.slow
def test_a_full_disk(recipe: Path, undisturbed: Path, small_disk: Path):
    """Of five checkpoints one can be written; once there is more room, the run goes on from that one."""
    workdir = small_disk / "run"
    output = finish(start(recipe, workdir, "--checkpoint.keep", "1", "--checkpoint.every", "2"), status=2)
    assert "No space left on device" in output
    assert [path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()] == ["2"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finish(start(recipe, workdir))
    assert_identical(workdir, undisturbed)


def test_the_latest_the_best_and_every_so_many_stay(config, tmp_path: Path):
    config = replace(config, checkpoint__keep=2, checkpoint__keep_every=4, checkpoint__keep_best=1)
    spec = spec_of(config)
    state = init_state(spec)
    with Checkpoints(tmp_path, spec) as checkpoints:
        for step in range(1, 11):
            validation = None if step in (2, 10) else {"loss": abs(step - 3.4)}  # they were not evaluated
            checkpoints.save(step, state, Progress(), validation=validation)
    left = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert left == [3, 4, 8, 9, 10]
    assert best_step(tmp_path, metric=spec.best) == 3


def test_a_number_that_is_none_is_never_the_best_and_of_equals_the_first_is(config, tmp_path: Path):
    spec = spec_of(replace(config, checkpoint__keep=1, checkpoint__keep_best=1))
    state = init_state(spec)
    with Checkpoints(tmp_path, spec) as checkpoints:
        for step, value in enumerate([5.0, 4.0, 4.0, float("nan"), 6.0], 1):
            validation = {"loss": value}
            checkpoints.save(step, state, Progress(), validation=validation)
    assert steps_of(tmp_path) == [5, 2]
    assert [validation_value(tmp_path, step, metric="loss") for step in (5, 2)] == [6.0, 4.0]
