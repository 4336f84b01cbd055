"""`bert-jax compare`: the same bits, or where two runs differ."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from bert_jax.analysis.compare import FirstDifference, differing_arrays, first_difference
from bert_jax.cli import main as cli
from bert_jax.config import Config
from bert_jax.run.pretrain import pretrain
from bert_jax.workdir.metrics_file import read_metrics
from tests.helpers.configs import replace
from tests.helpers.data import read_batches


@pytest.fixture(scope="module")
def short(config: Config) -> Config:
    return replace(config, train__steps=6, train__eval_every=3, checkpoint__every=3)


@pytest.fixture(scope="module")
def run(short: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "run"
    pretrain(short, workdir=workdir)
    return workdir


@pytest.mark.long
def test_a_run_that_was_stopped_is_the_same(run: Path, short: Config, tmp_path: Path, capsys):
    """Bit for bit; and so are the tokens it has seen, while its hours go on."""
    pretrain(replace(short, train__stop_at=2), workdir=tmp_path)
    pretrain(short, workdir=tmp_path)
    assert cli.run(["compare", str(run), str(tmp_path)]) == 0
    config, metrics, checkpoint, verdict = capsys.readouterr().out.splitlines()
    assert config == "config: the same"
    assert metrics == "metrics: the same in all 8 lines that both have"
    assert "checkpoint of step 6" in checkpoint
    assert "bit for bit" in checkpoint
    assert verdict == "the runs are the same"

    lines = read_metrics(tmp_path / "metrics.jsonl")
    seen = np.cumsum([(batch["segment_ids"] > 0).sum() for batch in read_batches(short, 6)])
    assert [lines[step, "train"]["tokens"] for step in range(1, 7)] == list(seen)
    assert lines[6, "validation"]["tokens"] == seen[-1]
    hours = [lines[step, "train"]["hours"] for step in range(1, 7)]
    assert hours == sorted(hours)
    assert hours[0] > 0


@pytest.mark.long
def test_another_mask_is_told_of(run: Path, short: Config, tmp_path: Path, capsys):
    masking = dataclasses.replace(short.data.masking, rate=0.1)
    pretrain(replace(short, data__masking=masking), workdir=tmp_path)
    assert cli.run(["compare", str(run), str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "config: data.masking.rate is 0.15, not 0.1"
    assert lines[1].startswith("metrics: differ first at step 1 (train): ")
    assert lines[2].startswith("checkpoint of step 6: ")
    assert "arrays differ" in lines[2]
    assert lines[-1] == "the runs differ"


def test_no_common_step_is_one_line(run: Path, short: Config, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        cli.run(["compare", str(run), str(tmp_path)])
    pretrain(replace(short, train__stop_at=2, train__log_every=100), workdir=tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="neither a logged step nor a checkpoint in common"):
        cli.run(["compare", str(run), str(tmp_path)])


@pytest.mark.parametrize("lacking", ["checkpoint", "metrics"])
def test_what_is_not_in_both_runs_tells_nothing(run: Path, tmp_path: Path, capsys, lacking: str):
    copy = shutil.copytree(run, tmp_path / "copy")
    if lacking == "checkpoint":
        for step in (3, 6):
            (copy / f"checkpoints/{step}").rename(copy / f"checkpoints/{step + 1}")
    else:
        (copy / "metrics.jsonl").write_text("")
    assert cli.run(["compare", str(run), str(copy)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert {"checkpoint": "checkpoints: no step in common", "metrics": "metrics: no line in common"}[
        lacking
    ] in lines
    assert lines[-1] == "what the runs have in common is the same, but too little to tell"


def test_runs_differ_first_at_the_first_number_that_differs():
    one = {
        (1, "train"): {"loss": 7.0, "goodput": 0.5},
        (2, "train"): {"loss": 6.0},
        (3, "train"): {"loss": 5.0},
    }
    assert first_difference(one, one) is None
    assert first_difference(one, {(1, "train"): {"loss": 7.0, "goodput": 0.9}}) is None, "clocks do not count"
    assert first_difference(one, {(9, "train"): {"loss": 7.0}}) is None, "nothing in common"
    other = one | {(2, "train"): {"loss": np.nextafter(6.0, 7)}, (3, "train"): {"loss": 4.0}}
    assert first_difference(one, other) == FirstDifference(2, "train", "loss", 6.0, np.nextafter(6.0, 7))
    nan = {(1, "train"): {"loss": math.nan}}
    assert first_difference(nan, nan) is None
    assert first_difference(one, nan) is not None


def test_arrays_are_compared_by_their_bits():
    one = {"a": np.float32([3, 4]), "b": np.int32([1]), "c": np.float32([0.0]), "d": np.float32([1])}
    assert differing_arrays(one, dict(one)) == []
    other = {"a": np.float32([3, 4.5]), "b": np.int32([1]), "c": np.float32([-0.0]), "e": np.float32([1])}
    found = {difference.name: difference for difference in differing_arrays(one, other)}
    assert found.keys() == {"a", "c", "d", "e"}
    assert (found["a"].largest, found["a"].relative) == (0.5, 0.1)
    assert found["c"].largest == 0, "minus zero is another bit"
    assert found["d"].largest == math.inf, "missing"


def test_a_line_that_is_no_metrics_is_named(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    good = json.dumps({"step": 1, "split": "train", "loss": None})
    file.write_text(f"{good}\n[1]\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 is not a line of metrics"):
        read_metrics(file)
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl:1 is not a line of metrics"):
        read_metrics(file)


def test_a_last_line_without_its_end_is_half_written_unless_the_file_is_finished(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    good = json.dumps({"step": 1, "split": "train", "loss": None})
    file.write_text(f'{good}\n{{"step": 2, "spl')
    assert math.isnan(read_metrics(file)[1, "train"]["loss"])
    with pytest.raises(ValueError, match=r"metrics.jsonl:2 is not a line of metrics"):
        read_metrics(file, finished=True)
    file.write_text(good)
    assert read_metrics(file) == {}
    assert read_metrics(file, finished=True).keys() == {(1, "train")}
