"""With which changes of its config a run may go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bert_jax.config import Config, OptimizerConfig, TrainConfig
from bert_jax.run.pretrain import pretrain
from bert_jax.workdir.resume import incompatible_changes
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import assert_identical

PLANNED: dict[str, Any] = {
    "optimizer__schedule": "warmup_stable_decay",
    "optimizer__decay_steps": 3,
    "train__steps": 10,
}


def run_of(schedule: str, *, steps: int = 100, **optimizer: Any) -> Config:
    optimizer = {"warmup_steps": 10, "schedule": schedule} | optimizer
    return Config(optimizer=OptimizerConfig(**optimizer), train=TrainConfig(steps=steps))


def changes(saved: Config, config: Config, *, step: int) -> list[str]:
    return incompatible_changes(spec_of(saved), spec_of(config), step=step)


def test_how_it_computes_and_what_it_writes_may_change():
    one = run_of("linear")
    other = replace(
        one, train__stop_at=7, train__microbatches=2, mesh__fsdp=2, data__dir="x", checkpoint__keep=9
    )
    assert changes(one, other, step=50) == []


@pytest.mark.parametrize("field", ["train__seed", "optimizer__weight_decay", "data__sequence_length"])
def test_what_it_computes_may_not(field: str):
    one = run_of("constant")
    (change,) = changes(one, replace(one, **{field: 64}), step=50)
    assert change.startswith(f"{field.replace('__', '.')} is ")


def test_the_metric_of_the_best_may_not():
    one = run_of("constant")
    assert changes(one, replace(one, checkpoint__best="loss"), step=50) == [], "the first one anyway"
    (change,) = changes(one, replace(one, checkpoint__best="mlm_loss"), step=50)
    assert change == "checkpoint.best is 'loss', not 'mlm_loss'"


def test_nor_may_what_followed_from_files(config: Config):
    """The encoder of init.source, say, whose folder has another one now."""
    spec = spec_of(config)
    other = dataclasses.replace(spec.network.model, num_hidden_layers=9)
    changed = dataclasses.replace(spec, network=spec.network._replace(model=other))
    assert incompatible_changes(spec, changed, step=5) == ["model.num_hidden_layers is 2, not 9"]


STABLE = {"decay_steps": 40}


@pytest.mark.parametrize(
    ("saved", "config", "step"),
    [
        (run_of("constant"), run_of("constant", steps=200), 100),
        (run_of("inverse_sqrt"), run_of("inverse_sqrt", steps=200), 100),
        (run_of("constant"), run_of("warmup_stable_decay", decay_steps=20, steps=120), 100),
        (run_of("warmup_stable_decay", **STABLE), run_of("warmup_stable_decay", steps=200, **STABLE), 60),
        (run_of("warmup_stable_decay", **STABLE), run_of("warmup_stable_decay", decay_steps=9), 60),
        (run_of("warmup_stable_decay", **STABLE), run_of("constant"), 60),
        (run_of("linear"), run_of("cosine", end_learning_rate=1e-5, steps=200), 10),  # in its warm-up
    ],
)
def test_a_schedule_may_change_after_the_steps_so_far(saved: Config, config: Config, step: int):
    assert changes(saved, config, step=step) == []


@pytest.mark.parametrize(
    ("saved", "config", "step", "change"),
    [
        (run_of("linear"), run_of("linear", steps=200), 12, "train.steps is 100, not 200"),
        (run_of("cosine"), run_of("cosine", steps=200), 50, "train.steps is 100, not 200"),
        (
            run_of("warmup_stable_decay", **STABLE),
            run_of("warmup_stable_decay", steps=200, **STABLE),
            62,  # the decay of 40 steps begins at step 60, and its first one still has the full rate
            "train.steps is 100, not 200",
        ),
        (run_of("constant"), run_of("constant", warmup_steps=5), 50, "optimizer.warmup_steps is 10, not 5"),
        (
            replace(run_of("constant"), train__budget="1 hours"),
            replace(run_of("constant"), train__budget="2 hours"),
            50,
            "train.budget is '1 hours', not '2 hours'",
        ),
    ],
)
def test_what_it_has_done_may_not(saved: Config, config: Config, step: int, change: str):
    assert changes(saved, config, step=step) == [change]


@pytest.mark.slow
def test_a_constant_run_that_gets_more_steps_and_a_decay_is_the_one_that_was_planned_so(
    config: Config, tmp_path: Path
):
    config = replace(config, train__eval_every=4, train__log_every=1, optimizer__warmup_steps=2)
    assert pretrain(replace(config, **PLANNED), workdir=tmp_path / "planned")
    first = replace(config, optimizer__schedule="constant", train__steps=4)
    assert pretrain(first, workdir=tmp_path / "grown")
    assert pretrain(replace(config, **PLANNED), workdir=tmp_path / "grown")
    assert_identical(tmp_path / "planned", tmp_path / "grown")
