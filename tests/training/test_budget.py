"""`train.budget`: the length of a run in tokens, FLOPs or hours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import Config, TrainConfig
from bert_jax.parallel.processes import DelayedMax
from bert_jax.run.clock import Clock, Phase
from bert_jax.run.pretrain import pretrain
from bert_jax.training.batch_ramp import position_at
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import assert_identical, finish, metrics, start_several


@pytest.mark.parametrize(("tokens", "steps"), [("2e6", 31), ("65536", 1), ("65537", 2), ("3276800", 50)])
def test_tokens_are_columns_of_rows(tokens: str, steps: int):
    config = Config(train=TrainConfig(steps=99_999, global_batch_size=512, budget=f"{tokens} tokens"))
    config = replace(config, optimizer__warmup_steps=0)
    assert config.data.sequence_length * config.train.global_batch_size == 65536
    assert spec_of(config).steps == steps
    assert spec_of(config).config.train.steps == 99_999, "what was asked for stays"


def test_flops_are_those_of_a_step():
    config = replace(Config(), train__budget="1e19 flops", optimizer__warmup_steps=0)
    spec = spec_of(config)
    assert (spec.steps - 1) * spec.step_flops < 1e19 <= spec.steps * spec.step_flops


def test_a_batch_that_grows_is_counted_as_it_is():
    config = Config(
        train=TrainConfig(
            global_batch_size=64, batch_ramp=(16, 32), batch_ramp_steps=100, budget="4e6 tokens"
        )
    )
    config = replace(config, optimizer__warmup_steps=0)
    spec = spec_of(config)
    last_two = [position_at(spec.stages, step) * 128 for step in (spec.steps - 1, spec.steps)]
    assert last_two[0] < 4e6 <= last_two[1]
    with pytest.raises(ValueError, match=r"ends within train\.batch_ramp_steps 100"):
        spec_of(replace(config, train__budget="1e5 tokens"))


@pytest.mark.parametrize(
    "budget", ["24", "hours", "-1 hours", "nan hours", "inf hours", "24 days", "1e9tokens", ""]
)
def test_what_is_no_budget_is_named(budget: str):
    with pytest.raises(ValueError, match=r"train\.budget is .* must be a positive number and hours, tokens"):
        TrainConfig(budget=budget)


def test_a_budget_within_the_warmup_is_refused_by_its_name():
    config = replace(Config(), train__budget="1e6 tokens")
    with pytest.raises(ValueError, match=r"warmup_steps 10000 .* the 31 steps of train\.budget '1e6 tokens'"):
        spec_of(config)


def test_only_the_steps_of_the_budget_count():
    """Not the train.steps that it replaces."""
    config = replace(Config(), train__steps=20_000, train__budget="2e9 tokens")  # 61,036 steps
    config = replace(config, train__stop_at=50_000, optimizer__warmup_steps=40_000)
    assert spec_of(config).steps == 61_036
    with pytest.raises(
        ValueError, match=r"stop_at is 70000; .* 1 and the 61,036 steps of train\.budget '2e9"
    ):
        spec_of(replace(config, train__stop_at=70_000))
    with pytest.raises(
        ValueError, match=r"decay_steps 30000 together pass the 61,036 steps of train\.budget"
    ):
        spec_of(
            replace(config, optimizer__schedule="warmup_stable_decay", optimizer__decay_steps=30_000),
        )
    ramp = replace(config, train__batch_ramp=(64,), train__batch_ramp_steps=30_000)
    assert spec_of(ramp).steps > 61_036


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(ValueError, match=r"train\.steps 2147483648 are too many; at most 2,147,483,647"):
        TrainConfig(steps=2**31)
    config = replace(Config(), train__budget="1e24 flops")
    with pytest.raises(ValueError, match=r"the [\d,]{14,} steps of train\.budget '1e24 flops' are too many"):
        spec_of(config)


@pytest.fixture
def a_second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the clock on the wall."""
    enter, begun = Clock.enter, []

    def counted(self: Clock, phase: Phase, *, step: int) -> None:
        begun.extend([self] * (phase == "input"))
        enter(self, phase, step=step)

    monkeypatch.setattr(Clock, "enter", counted)
    monkeypatch.setattr(Clock, "total", property(lambda self: self.earlier + begun.count(self)))


@pytest.mark.slow
def test_hours_end_the_run_and_its_schedule_across_restarts(
    config: Config, tmp_path: Path, a_second_a_step: None
):
    """40 s at a second a step; the warm-up is a tenth of it."""
    config = replace(
        config,
        train__budget=f"{40 / 3600} hours",
        train__steps=1000,
        train__eval_every=100_000,
        optimizer__warmup_steps=100,
        optimizer__learning_rate=1e-3,
    )
    pretrain(config, workdir=tmp_path / "at once")
    lines = metrics(tmp_path / "at once")
    assert [line["step"] for line in lines] == list(range(1, 41))
    spent = np.arange(40) / 40
    rates = 1e-3 * np.minimum(spent / 0.1, (1 - spent) / 0.9)
    np.testing.assert_allclose([line["learning_rate"] for line in lines], rates, rtol=1e-5)
    assert [line["step"] for line in metrics(tmp_path / "at once", "validation")] == [40]

    for stop_at in (15, None, None):  # the last one has nothing to do
        pretrain(replace(config, train__stop_at=stop_at), workdir=tmp_path / "restarted")
    assert_identical(tmp_path / "at once", tmp_path / "restarted")
    assert metrics(tmp_path / "restarted") == lines


@pytest.mark.long
def test_the_process_that_is_furthest_in_the_budget_counts_across_restarts(
    config: Config, tmp_path: Path, a_second_a_step: None, monkeypatch: pytest.MonkeyPatch
):
    """As if the clock of another one ran twice as fast: 40 s are over after 20 steps."""

    def largest(self: DelayedMax, value: float) -> float:
        return value if isinstance(value, bool) else min(1.0, 2 * value)

    monkeypatch.setattr(DelayedMax, "__call__", largest)
    config = replace(
        config, train__budget=f"{40 / 3600} hours", train__steps=1000, optimizer__warmup_steps=100
    )
    pretrain(replace(config, train__stop_at=15), workdir=tmp_path)
    pretrain(config, workdir=tmp_path)
    rates = [line["learning_rate"] for line in metrics(tmp_path)][5:]
    assert rates == sorted(rates, reverse=True)
    ended = metrics(tmp_path)[-1]["step"]
    pretrain(config, workdir=tmp_path)
    assert metrics(tmp_path)[-1]["step"] == ended


@pytest.mark.slow
def test_several_processes_agree_on_the_time(recipe: Path, tmp_path: Path):
    """90 s, by the clock on the wall."""
    workdir = tmp_path / "run"
    flags = (f"--train.budget={90 / 3600} hours", "--train.steps=1000", "--optimizer.warmup-steps=100")
    flags += ("--optimizer.learning-rate=1e-3", "--train.eval-every=1000000", "--train.log-every=20")
    for process in start_several(recipe, workdir, *flags, processes=2):
        finish(process)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    spent = np.array([line["hours"] * 40 for line in lines if line["split"] == "train"])
    rates = [line["learning_rate"] for line in lines if line["split"] == "train"]
    # Hours are read when a line is written, the rate when its step was begun.
    np.testing.assert_allclose(rates, 1e-3 * np.minimum(spent / 0.1, (1 - spent) / 0.9), atol=1e-4)
    assert 1 <= spent[-1] < 1.1
