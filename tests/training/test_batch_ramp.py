"""A batch that grows: every row of the data once, in order, and a learning rate that does not notice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh

from bert_jax.config import Config, TrainConfig
from bert_jax.parallel.sharding import make_mesh
from bert_jax.run.compile_ahead import CompileAhead
from bert_jax.run.data import PretrainingData
from bert_jax.run.pretrain import pretrain
from bert_jax.training.batch_ramp import Stage, make_stages, position_at, stage_of
from bert_jax.training.fits import check_fits
from bert_jax.training.optimizer import schedule_of
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import TrainState
from bert_jax.workdir.metrics_file import read_metrics
from data_pipeline.loader import Loader
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import assert_identical, metrics


def test_steps_with_fewer_rows_count_as_parts_of_a_whole_one(config: Config):
    """As `plan` counts the hours."""
    ramp = {"train__batch_ramp": (4, 8), "train__batch_ramp_steps": 8, "train__global_batch_size": 16}
    spec = spec_of(replace(config, train__steps=20, train__microbatches=1, **ramp))
    assert spec.whole_steps == 4 * 4 / 16 + 4 * 8 / 16 + 12


@given(
    sizes=st.sets(st.integers(1, 40), min_size=1, max_size=5),
    ramp_steps=st.integers(5, 30),
    rest=st.integers(1, 30),
    microbatches=st.integers(1, 4),
)
def test_stages_cover_the_run(sizes: set[int], ramp_steps: int, rest: int, microbatches: int):
    *ramp, whole = (microbatches * size for size in sorted(sizes))
    train = TrainConfig(
        steps=ramp_steps + rest,
        global_batch_size=whole,
        microbatches=microbatches,
        batch_ramp=tuple(ramp),
        batch_ramp_steps=ramp_steps if ramp else 0,
    )
    found = make_stages(train, max_steps=train.steps)
    assert [stage.rows for stage in found] == [*ramp, whole]
    assert (found[0].start, found[-1].stop) == (0, train.steps)
    assert all(one.stop == other.start for one, other in pairwise(found))
    turns = [stage.stop - stage.start for stage in found[:-1]]
    assert not turns or max(turns) - min(turns) <= 1
    by_step = [stage.rows for stage in found for _ in range(stage.start, stage.stop)]
    positions = [position_at(found, step) for step in range(train.steps + 1)]
    assert positions == np.cumsum([0, *by_step]).tolist()
    assert [stage_of(found, step).rows for step in range(train.steps)] == by_step
    for stage in found:
        assert stage.rows / stage.microbatches <= whole / microbatches
        assert stage.microbatches == 1 or stage.rows / (stage.microbatches - 1) > whole / microbatches


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batch_ramp": (8, 4), "batch_ramp_steps": 2}, r"train\.batch_ramp is \(8, 4\); its sizes must"),
        ({"batch_ramp": (16,), "batch_ramp_steps": 2}, r"less than train\.global_batch_size 16"),
        ({"batch_ramp": (8,)}, r"train\.batch_ramp_steps is 0"),
        ({"batch_ramp_steps": 3}, r"train\.batch_ramp_steps is 3; it must be 0 without"),
        ({"batch_ramp": (8,), "batch_ramp_steps": 20, "steps": 20}, r"less than train\.steps 20"),
    ],
)
def test_a_ramp_that_cannot_work_is_refused(flags: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Config(train=TrainConfig(global_batch_size=16, **flags))


def test_a_ramp_that_does_not_divide_over_the_mesh_is_refused(config: Config):
    config = replace(config, train__batch_ramp=(4,), train__batch_ramp_steps=2)
    with pytest.raises(ValueError, match=r"train\.batch_ramp 4 is not divisible by 8"):
        check_fits(spec_of(config), make_mesh(config.mesh))


def test_growing_batches_are_the_rows_of_one_sequence(config: Config):
    """Tokens and masks of a row are those of its place, whatever the batch it comes in."""

    def rows(count: int, **arguments: int) -> list[dict[str, np.ndarray]]:
        with Loader(config.data, split="train", **arguments) as loader:
            return [
                {name: array[i] for name, array in batch.items()}
                for batch in islice(loader, count)
                for i in range(arguments["batch_size"])
            ]

    whole = rows(10, batch_size=8)
    grown = rows(2, batch_size=8) + rows(4, batch_size=16, step=2, position=16)
    assert len(whole) == len(grown)
    for one, other in zip(whole, grown, strict=True):
        assert all((one[name] == other[name]).all() for name in one)


def test_the_time_to_begin_with_a_larger_batch_is_not_that_of_its_steps(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A second goes by when the clock is read, a thousand when data is opened or a step compiled."""
    clock = [0.0]

    def read() -> float:
        clock[0] += 1
        return clock[0]

    def slow_to_compile(spec: RunSpec, mesh: Mesh, stage: Stage) -> Callable[..., Any]:
        known = {"loss": 7.0, "grad_norm": 1.0, "skipped": 0.0, "tokens": 100.0}
        metrics = {name: jnp.float32(value) for name, value in known.items()}
        compiling = iter([1000.0])

        def step(state: TrainState, batch: Any, constants: Any) -> Any:
            clock[0] += next(compiling, 0.0)
            return state, metrics

        return step

    def slow_to_open(self: PretrainingData, **arguments: Any) -> Any:
        clock[0] += 1000
        return opened(self, **arguments)

    opened = PretrainingData.batches
    monkeypatch.setattr(PretrainingData, "batches", slow_to_open)
    monkeypatch.setattr("bert_jax.run.metrics.time", SimpleNamespace(perf_counter=read))
    monkeypatch.setattr("bert_jax.run.loop.jit_train_step", slow_to_compile)
    ahead: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        CompileAhead,
        "begin",
        lambda self, step, state, batch, constants: ahead.append(batch["token_ids"].shape),
    )
    config = replace(config, train__batch_ramp=(8,), train__batch_ramp_steps=3, train__stop_at=6)
    pretrain(config, workdir=tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    seconds = {
        step: 100 / line["tokens_per_second"]
        for (step, _), line in lines.items()
        if "tokens_per_second" in line
    }
    assert seconds.keys() == {2, 3, 5, 6}, "the first step of a size only starts the clock"
    assert max(seconds.values()) < 10
    assert ahead == [(16, 64)], "the second size is compiled while the first one trains"


@pytest.mark.slow
def test_a_run_that_stops_on_its_way_up_ends_with_the_same_bits(config: Config, tmp_path: Path):
    config = replace(config, train__steps=8, train__microbatches=2, optimizer__warmup_steps=3)
    rate = schedule_of(spec_of(config))
    config = replace(config, train__batch_ramp=(8,), train__batch_ramp_steps=4)
    assert pretrain(config, workdir=tmp_path / "at once")
    for stop in (3, 8):
        assert pretrain(replace(config, train__stop_at=stop), workdir=tmp_path / "run")
    assert_identical(tmp_path / "run", tmp_path / "at once")
    found = [line["learning_rate"] for line in metrics(tmp_path / "run")]
    assert found == pytest.approx([float(rate(step)) for step in range(8)], rel=1e-6)
