"""Reports of runs: workdirs written by hand, with numbers that are known."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_jax.analysis.curves import Curve, curve, divergence, interpolate_x, smoothed
from bert_jax.analysis.report import compared, facts, read, shown_metrics, summary
from bert_jax.analysis.report_page import write
from bert_jax.analysis.report_plots import MAX_POINTS, thinned
from bert_jax.cli import main as cli
from bert_jax.config import (
    BertConfig,
    Config,
    ModelConfig,
    QuestionAnsweringConfig,
    TaskConfig,
    TokenClassificationConfig,
    TrainConfig,
)
from bert_jax.run.preflight import check_workdir
from bert_jax.tasks import task_of
from bert_jax.training.network import Network
from bert_jax.training.run_spec import RunSpec, best_metric
from bert_jax.workdir import run_files
from tests.helpers.configs import replace, spec_of

SMALL = Config(
    model=BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    train=TrainConfig(steps=20_000),
)
PRETRAINING = spec_of(SMALL)
SINGLES = spec_of(replace(SMALL, data__input_format="full_sentences"))
START = {
    "event": "start",
    "time": "2026-01-01T00:00:00+00:00",
    "step": 0,
    "revision": "abc123",
    "versions": {"bert-jax": "0.1.0", "jax": "0.10.1"},
    "processes": 2,
    "devices": 8,
    "device": "TPU v5 lite",
    "changes": [],
    "baselines": {"unigram_loss": 6.5, "majority_nsp_accuracy": 0.55},
}
SECONDS = {"start": 5.0, "compile": 10.0, "step": 80.0, "save": 5.0}


def train_line(step: int, loss: float, **more: Any) -> dict[str, Any]:
    known = {"step": step, "split": "train", "tokens": step * 1000, "hours": step / 100, "loss": loss}
    heads = {"mlm_loss": loss - 0.6, "mlm_accuracy": 0.1, "nsp_loss": 0.6, "nsp_accuracy": 0.6}
    how = {"learning_rate": 1e-3, "grad_norm": 1.0, "skipped_steps": 0, "goodput": 0.9}
    return known | heads | how | more


def validation_line(step: int, loss: float, **more: Any) -> dict[str, Any]:
    known = {"step": step, "split": "validation", "tokens": step * 1000, "hours": step / 100, "loss": loss}
    return known | {"mlm_loss": loss - 0.5, "mlm_accuracy": 0.2, "nsp_loss": 0.5, "nsp_accuracy": 0.75} | more


def write_lines(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def workdir(
    folder: Path,
    lines: list[dict[str, Any]],
    *,
    spec: RunSpec = PRETRAINING,
    history: tuple[dict[str, Any], ...] = (START,),
) -> Path:
    folder.mkdir(parents=True)
    run_files.write(spec, folder)
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "history.jsonl", list(history))
    return folder


def finetuning(task: TaskConfig) -> RunSpec:
    """Of a model as small as SMALL."""
    network = Network(PRETRAINING.network.model, task_of(task), task)
    config = Config(model=ModelConfig(), task=task)
    return dataclasses.replace(PRETRAINING, config=config, network=network, best=best_metric(network, None))


@pytest.fixture
def eventful(tmp_path: Path) -> Path:
    """A run of 100 steps, restarted at 50, sent back from 80 to 70, with a skipped step."""
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, 101):
        skipped = {"skipped_steps": int(step > 30)} | ({"loss": None} if step == 31 else {})
        rates = {} if step in (1, 51) else {"tokens_per_second": 100.0 + step % 2, "mfu": 0.4}
        spike = {"grad_norm": 50.0} if step == 80 else {}
        loss = 7 - step / 50 + rng.normal(0, 0.05)
        lines.append(train_line(step, loss) | skipped | rates | spike)
        if step in (40, 80, 100):
            lines.append(validation_line(step, {40: 6.5, 80: 5.0, 100: 5.25}[step]))
    history = (
        START,
        {"event": "skipped", "time": "", "step": 31, "records": [1], "loss": "nan", "grad_norm": "nan"},
        {"event": "end", "time": "", "step": 50, "finished": False, "seconds": SECONDS},
        START | {"step": 50},
        {"event": "rollback", "time": "", "at": 80, "to": 70, "skipped_rows": 10},
        {"event": "damaged", "time": "", "step": 60, "why": "a file is missing"},
        {"event": "end", "time": "", "step": 100, "finished": True, "seconds": SECONDS | {"input": 100.0}},
    )
    return workdir(tmp_path / "eventful", lines, history=history)


def test_the_facts_are_those_of_the_files(eventful: Path):
    told = facts(read(eventful).runs[0])
    assert told["steps"] == "100"
    assert told["tokens"] == "100,000"
    assert told["hours"] == "1.00"
    assert told["validation loss"] == "5.2500 at step 100"
    assert told["best validation loss"] == "5.0000 at step 80"
    assert told["validation mlm_accuracy"] == "0.2000"
    assert told["unigram_loss"] == "6.5000; the validation mlm_loss is 1.7500 below"
    assert told["majority_nsp_accuracy"] == "0.5500; the validation nsp_accuracy is 0.2000 above"
    assert told["throughput"] == "100 tokens/s (median)"
    assert told["MFU"] == "40.0% (median)"
    assert told["goodput"] == "53.3% of 300 s"
    assert told["restarts"] == "1 (from step 50)"
    assert told["rollbacks"] == "1 (from step 80 to 70)"
    assert told["skipped steps"] == "1"
    assert told["damaged checkpoints"] == "1 (of step 60)"
    assert told["device"] == "8 x TPU v5 lite, processes: 2"
    assert told["versions"] == "bert-jax 0.1.0, jax 0.10.1"


@pytest.mark.long
def test_the_page_needs_nothing_beside_it(eventful: Path, tmp_path: Path):
    index = write(read(eventful), tmp_path / "out")
    page = index.read_text()
    names = dict.fromkeys(
        (
            *("loss", "loss_by_tokens", "loss_by_hours", "mlm_loss", "mlm_loss_by_tokens"),
            *("mlm_loss_by_hours", "nsp_loss", "mlm_accuracy", "mlm_accuracy_by_tokens"),
            *("mlm_accuracy_by_hours", "nsp_accuracy", "learning_rate", "gradient_norm", "throughput"),
            *("mfu", "goodput", "time"),
        )
    )
    assert {file.stem for file in index.parent.glob("*.png")} == set(names)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in index.parent.glob("*.png"))
    assert page.count("<svg ") == len(names)
    assert not re.findall(r"<script|<link|<img| src=|url\(http|@import", page)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    for word in ("unigram baseline", "restart", "rollback", "validation", "always the same answer"):
        assert f"> {word}</text>" in page or f">{word}</text>" in page
    assert write(read(eventful), tmp_path / "again").read_text() == page


@pytest.mark.long
def test_a_gradient_norm_of_wide_range_is_drawn_with_plain_powers_of_ten(eventful: Path, tmp_path: Path):
    page = write(read(eventful), tmp_path / "out").read_text()
    assert "mathdefault" not in page
    assert ">10</text>" in page


def test_what_is_half_written_is_left_out(eventful: Path):
    before = facts(read(eventful).runs[0])
    for name in ("metrics.jsonl", "history.jsonl"):
        with (eventful / name).open("a") as file:
            file.write('{"step": 101, "spl')
    assert facts(read(eventful).runs[0]) == before


def test_a_run_of_one_line(tmp_path: Path):
    run = workdir(tmp_path / "young", [train_line(10, 7.0)])
    told = facts(read(run).runs[0])
    assert told["train loss"] == "7.0000 at step 10"
    assert told["goodput"] == "90.0% of the last process"
    assert {"validation loss", "throughput", "MFU"}.isdisjoint(told)
    index = write(read(run, compare=[run], reference=run / "metrics.jsonl"), tmp_path / "out")
    assert (index.parent / "loss.png").exists()
    assert not (index.parent / "time.png").exists()


def test_a_run_from_before_there_were_tokens_hours_and_baselines(tmp_path: Path):
    lines = [train_line(step, 7.0) for step in (10, 20)]
    for line in lines:
        del line["tokens"], line["hours"]
    start = {name: value for name, value in START.items() if name != "baselines"}
    run = workdir(tmp_path / "old", lines, history=(start, start | {"step": 10}))
    index = write(read(run), tmp_path / "out")
    assert not list(index.parent.glob("*_by_*"))
    assert "unigram" not in index.read_text()
    (run / "history.jsonl").unlink()
    assert facts(read(run).runs[0])["restarts"] == "0"


def test_metrics_and_titles_are_those_of_the_objective(tmp_path: Path):
    spec = spec_of(replace(SMALL, data__input_format="sentence_order"))
    line = {name.replace("nsp", "sop"): value for name, value in validation_line(10, 6.0).items()}
    report = read(workdir(tmp_path / "run", [line], spec=spec))
    metrics = spec.network.objective.metrics(spec.network.settings)
    assert list(shown_metrics(report.runs).values()) == list(metrics)
    told = facts(report.runs[0])
    assert told["trained for"] == "mlm_sop"
    assert told["validation sop_accuracy"] == "0.7500"
    assert told["majority_nsp_accuracy"] == "0.5500; the validation sop_accuracy is 0.2000 above"
    index = write(report, tmp_path / "out")
    for metric in metrics:
        assert (index.parent / f"{metric.name}.png").exists()
        assert f'aria-label="{metric.title}"' in index.read_text()


def singles(folder: Path) -> Path:
    """A run without pairs."""
    lines = [train_line(10, 7.0, mlm_loss=7.0), validation_line(10, 6.0, mlm_loss=6.0)]
    for line in lines:
        del line["nsp_loss"], line["nsp_accuracy"]
    return workdir(folder, lines, spec=SINGLES)


def test_without_pairs_the_loss_is_that_of_the_words(tmp_path: Path):
    report = read(singles(tmp_path / "run"))
    assert list(shown_metrics(report.runs)) == ["loss", "mlm_accuracy"]
    assert "unigram baseline" in write(report, tmp_path / "out").read_text()
    assert facts(report.runs[0])["unigram_loss"] == "6.5000; the validation loss is 0.5000 below"


def test_beside_a_run_with_pairs_the_loss_of_the_words_is_shown_too(eventful: Path, tmp_path: Path):
    both = read(singles(tmp_path / "run"), compare=[eventful])
    assert shown_metrics(both.runs).keys() == shown_metrics(read(eventful).runs).keys()


def test_a_fine_tuning_shows_every_metric_there_is(tmp_path: Path):
    task = TokenClassificationConfig(labels=("O", "B-PER"), train="train.conll")
    validation = {"step": 10, "split": "validation", "loss": 0.5, "f1": 0.8, "accuracy": 0.9, "odd/one": 0.1}
    train = {"step": 10, "split": "train", "loss": 0.7, "learning_rate": 1e-4, "grad_norm": 1.0}
    start = START | {"baselines": {}}
    report = read(workdir(tmp_path / "run", [train, validation], spec=finetuning(task), history=(start,)))
    told = facts(report.runs[0])
    assert told["data"] == "train.conll"
    assert told["trained for"] == "token_classification"
    assert told["validation f1"] == "0.8000"
    assert "unigram_loss" not in told
    index = write(report, tmp_path / "out")
    assert {"loss", "accuracy", "f1", "odd_one"} <= {file.stem for file in index.parent.glob("*.png")}
    page = index.read_text()
    assert page.count("train</text>") == 3, "loss, rate and gradient; the scores are held-out ones alone"
    assert page.count("validation</text>") == 4
    for title in ("Loss", "F1 of entities", "Accuracy on words", "Odd/one"):
        assert f'aria-label="{title}"' in page


def test_names_that_mean_something_to_html_and_to_matplotlib(tmp_path: Path):
    runs = [workdir(tmp_path / name, [train_line(1, 2.0)]) for name in ("_a & b", "$x$ <i>")]
    page = write(read(runs[0], compare=runs[1:]), tmp_path / "out").read_text()
    assert "<h1>_a &amp; b</h1>" in page
    assert "<i>" not in page
    assert page.count("$x$ &lt;i&gt;</text>") > 3
    assert page.count("_a &amp; b</text>") > 3


def test_runs_in_folders_of_the_same_name_are_called_by_their_paths(tmp_path: Path):
    runs = [workdir(tmp_path / parent / "run", [train_line(1, 2.0)]) for parent in ("a", "b")]
    assert [run.name for run in read(runs[0], compare=runs[1:]).runs] == list(map(str, runs))
    assert read(runs[0]).runs[0].name == "run"


def noisy(folder: Path, *, seed: int, bend: int | None = None, spec: RunSpec = PRETRAINING) -> Path:
    """400 losses that fall, with noise of 0.05, and from a step on fall slower."""
    noise = np.random.default_rng(seed).normal(0, 0.05, 401)
    steps = range(1, 401)
    late = [0.0 if bend is None else max(0, step - bend) / 400 for step in steps]
    lines = [train_line(s, 4 + 3 * np.exp(-s / 50) + noise[s] + a) for s, a in zip(steps, late, strict=True)]
    return workdir(folder, lines, spec=spec)


@pytest.mark.parametrize("seed", range(1, 6))
def test_noise_alone_is_no_difference(tmp_path: Path, seed: int):
    a, b = noisy(tmp_path / "a", seed=0), noisy(tmp_path / "b", seed=seed)
    apart = divergence(*(run.lines for run in read(a, compare=[b]).runs))
    assert apart is not None
    assert apart.first is None
    assert apart.window == 21
    assert apart.noise == pytest.approx(5 * 0.05 * np.sqrt(2 / 21), rel=0.15)


def test_the_step_from_which_the_losses_differ(tmp_path: Path):
    a, b = noisy(tmp_path / "a", seed=0), noisy(tmp_path / "b", seed=1, bend=200)
    apart = divergence(*(run.lines for run in read(a, compare=[b]).runs))
    assert apart is not None
    assert apart.first is not None
    assert 205 < apart.first < 260  # up to 0.077 is noise, and that much apart are they at 231
    assert apart.last == 390
    assert apart.difference == pytest.approx(190 / 400, abs=0.05)


def test_no_step_before_the_first_that_differs_is_named(tmp_path: Path):
    """Though the window around it holds differences that are still to come."""
    a, b = noisy(tmp_path / "a", seed=0), noisy(tmp_path / "b", seed=0, bend=200)
    apart = divergence(*(run.lines for run in read(a, compare=[b]).runs))
    assert apart is not None
    assert apart.first == 201


def test_the_comparison_in_words(tmp_path: Path):
    a = noisy(tmp_path / "a", seed=0)
    fast = spec_of(replace(SMALL, optimizer__learning_rate=0.5))
    b = noisy(tmp_path / "b", seed=0, bend=200, spec=fast)
    one, other, same = read(a, compare=[b, a]).runs
    said = compared(one, other)
    assert said[0].startswith("optimizer.learning_rate is ")
    assert said[1].startswith("the first number that differs: train loss at step 201, ")
    assert "at step 390 that of the other is 0.4750 higher" in said[2]
    said = compared(one, same)
    assert said[0] == "the configs are the same"
    assert said[1] == "no number differs in the 400 lines that both have"
    assert "by more than noise nowhere" in said[2]
    other.lines.clear()
    assert compared(one, other)[1:] == ["no step was logged by both"]


def test_the_reference_is_measured_at_the_last_common_step(eventful: Path, tmp_path: Path):
    lines = [train_line(step, 6.0) for step in (50, 90, 200)] + [validation_line(80, 5.5)]
    report = read(eventful, reference=write_lines(tmp_path / "known.jsonl", lines))
    told = "\n".join(summary(report))
    ours = report.runs[0].lines[90, "train"]["loss"]
    assert f"train loss at step 90: {ours:.4f}, of the reference 6.0000 ({ours - 6:+.4f})" in told
    assert "validation loss at step 80: 5.0000, of the reference 5.5000 (-0.5000)" in told
    assert "reference</text>" in write(report, tmp_path / "out").read_text()


def test_smoothing_keeps_a_line_a_line_and_both_ends():
    line = np.linspace(3.0, 1.0, 101)
    np.testing.assert_allclose(smoothed(line), line)
    noisy = np.random.default_rng(0).normal(size=401)
    np.testing.assert_allclose(smoothed(noisy)[[0, -1]], noisy[[0, -1]])
    assert smoothed(noisy)[200] == pytest.approx(noisy[190:211].mean())
    assert smoothed(np.array([2.0])).tolist() == [2.0]


def test_a_curve_has_what_is_finite_and_a_step_has_its_place():
    lines = {
        (20, "train"): {"loss": 2.0, "tokens": 200.0},
        (10, "train"): {"loss": 3.0},
        (30, "train"): {"loss": float("nan"), "tokens": 300.0},
        (20, "validation"): {"loss": 9.0, "tokens": 200.0},
    }
    assert curve(lines, "train", "loss").x.tolist() == [10, 20]
    assert curve(lines, "train", "loss", by="tokens").x.tolist() == [200]
    assert interpolate_x(lines, 25, by="tokens") == 250
    assert interpolate_x(lines, 10, by="tokens") == 100
    assert interpolate_x(lines, 25, by="step") == 25


def test_a_long_curve_is_thinned_but_keeps_its_spikes():
    y = np.zeros(100_000)
    y[[777, 50_000]] = 9.0, -9.0
    thin = thinned(Curve(np.arange(100_000.0), y))
    assert len(thin.y) <= MAX_POINTS
    assert {777.0, 50_000.0} <= set(thin.x)


def test_the_command(eventful: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--workdir", str(eventful), "--compare", str(eventful), str(eventful)]
    assert cli.run(["report", *arguments]) == 0
    told = capsys.readouterr().out
    assert told.endswith(f"written to {eventful / 'report' / 'index.html'}\n")
    assert "best validation loss    5.0000 at step 80" in told
    check_workdir(PRETRAINING, eventful)  # a run that has no checkpoint yet may begin anew all the same


def test_what_cannot_be_reported_is_said_in_one_line(eventful: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no config\.json"):
        read(tmp_path)
    empty = workdir(tmp_path / "empty", [])
    with pytest.raises(ValueError, match=r"empty/metrics\.jsonl has no metrics yet"):
        read(eventful, compare=[empty])
    (empty / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"empty/metrics\.jsonl has no metrics yet"):
        read(empty)
    with pytest.raises(FileNotFoundError, match="there is no reference"):
        read(eventful, reference=tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="is empty"):
        read(eventful, reference=write_lines(tmp_path / "empty.jsonl", []))
    picture = tmp_path / "loss.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"loss\.png:1 is not a line of metrics"):
        read(eventful, reference=picture)
    spec = finetuning(QuestionAnsweringConfig())
    tuned = workdir(tmp_path / "tuned", [train_line(1, 1.0)], spec=spec)
    with pytest.raises(ValueError, match=r"tuned is a run for question_answering and .* for pretraining"):
        read(eventful, compare=[tuned])


@pytest.mark.parametrize("line", ["{", "[]", '{"step": 1}', "\xe9"])
def test_a_line_that_is_no_history_is_named(eventful: Path, line: str):
    with (eventful / "history.jsonl").open("a", encoding="latin-1") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"history\.jsonl:8 is not a line of a history"):
        read(eventful)


def test_without_matplotlib_nothing_is_written(eventful: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'bert-jax\[plots\]'"):
        write(read(eventful), eventful / "report")
    assert not (eventful / "report").exists()
