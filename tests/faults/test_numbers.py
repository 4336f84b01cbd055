"""Numbers that are not finite, and losses that spike."""

from __future__ import annotations

import random
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.config import Config
from bert_jax.parallel import sharding
from bert_jax.run import loss_monitor
from bert_jax.run.loss_monitor import MIN_HISTORY, SPIKE_LENGTH, is_spike
from bert_jax.run.pretrain import pretrain
from bert_jax.training import step
from bert_jax.workdir.checkpoint import Checkpoints
from data_pipeline.batch import unpack
from data_pipeline.errors import UserError
from data_pipeline.loader import record_numbers
from data_pipeline.manifest import Manifest
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.runs import assert_identical, history, metrics, state
from tests.helpers.steps import run


@pytest.mark.long
@pytest.mark.parametrize("where", ["batch", "gradient"])
def test_bad_numbers_do_not_reach_the_parameters(config: Config, monkeypatch: pytest.MonkeyPatch, where: str):
    good, bad = read_batches(config, 2)
    before, _ = run(config, [good])
    if where == "batch":
        bad = bad | {"mlm_weights": np.full_like(bad["mlm_weights"], np.nan)}
    else:
        real = step.gradients

        def gradients(spec, stage, state, batch, constants):
            grads, sums = real(spec, stage, state, batch, constants)
            nsp = grads["objective"]["nsp"]["dense"]
            nsp["bias"] = jax.numpy.where(state.step == 1, np.inf, nsp["bias"])
            return grads, sums

        monkeypatch.setattr(step, "gradients", gradients)
    after, found = run(config, [good, bad])
    assert [int(values["skipped"]) for values in found] == [0, 1]
    assert int(after.step) == 2
    for one, other in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    b1, b2 = config.optimizer.b1, config.optimizer.b2
    adam, faded = (next(part for part in s.opt_state if hasattr(part, "mu")) for s in (before, after))
    for moments, decay in (("mu", b1), ("nu", b2)):  # as with a gradient of zero
        jax.tree.map(
            lambda x, y, decay=decay: np.testing.assert_allclose(y, decay * x, rtol=1e-6),
            getattr(adam, moments),
            getattr(faded, moments),
        )
    assert int(faded.count) == int(adam.count) + 1, "the learning rate stays that of the step"


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch):
    """poisoned(3, 4): the third and fourth batch have weights that are no numbers."""

    def poison(*steps: int) -> None:
        real, count = sharding.global_batch, iter(range(1, 1000))

        def global_batch(batch, mesh, *, batch_size):
            if next(count) in steps:
                batch = unpack(batch)
                batch["mlm_weights"] *= np.nan
            return real(batch, mesh, batch_size=batch_size)

        monkeypatch.setattr(sharding, "global_batch", global_batch)

    return poison


@pytest.mark.long
def test_a_run_goes_on_without_the_bad_batch_and_names_its_records(
    config: Config, tmp_path: Path, poisoned, caplog: pytest.LogCaptureFixture
):
    config = replace(config, train__steps=6, train__eval_every=100, optimizer__warmup_steps=1)
    poisoned(3)
    assert pretrain(config, workdir=tmp_path / "run")
    lines = metrics(tmp_path / "run")
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1, 1, 1]
    assert [line["loss"] is None for line in lines] == [False, False, True, False, False, False]
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    (skipped,) = history(tmp_path / "run", "skipped")
    manifest = Manifest.load(Path(config.data.dir))
    assert skipped["step"] == 3
    assert skipped["records"] == record_numbers(config.data, manifest, range(32, 48), seed=0)
    assert "step 3 had no update: its loss is nan" in caplog.text
    assert all(np.isfinite(array).all() for array in state(tmp_path / "run").values())


@pytest.mark.long
def test_too_many_in_a_row_end_the_run_with_advice(config: Config, tmp_path: Path, poisoned):
    config = replace(config, train__max_consecutive_skips=2, train__eval_every=100, checkpoint__every=1)
    poisoned(3, 5, 6)
    with pytest.raises(UserError, match=r"2 steps in a row, up to 6, .* lower optimizer\.learning_rate"):
        pretrain(config, workdir=tmp_path / "run")
    assert all(np.isfinite(array).all() for array in state(tmp_path / "run").values())


def noisy(count: int, *, seed: int = 0) -> list[float]:
    """Losses as they are: falling, with noise."""
    draw = random.Random(seed)
    return [7 * 0.99**i + draw.gauss(0, 0.05) for i in range(count)]


def test_a_spike_is_a_rise_that_stays():
    quiet = noisy(131)
    assert not is_spike(quiet, zscore=10)
    assert not is_spike([*quiet[:-1], 30.0], zscore=10), "one bad batch is none"
    assert is_spike([*quiet[:-SPIKE_LENGTH], 30.0, 25.0, 28.0], zscore=10)
    assert not is_spike([*quiet[:-SPIKE_LENGTH], 0.1, 0.1, 0.1], zscore=10), "nor is a fall"
    assert not is_spike([5.0] * (MIN_HISTORY - 1) + [30.0] * SPIKE_LENGTH, zscore=10), "nor the beginning"


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_spike(seed: int):
    losses = noisy(2000, seed=seed)
    assert not any(is_spike(losses[max(0, i - 131) : i], zscore=10) for i in range(2000))


@pytest.fixture
def spiking(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The ninth loss is called a spike, and one rollback is allowed: the run goes back to step 6."""
    monkeypatch.setattr(loss_monitor, "is_spike", lambda losses, zscore: len(losses) == 9)
    return replace(
        config,
        train__steps=12,
        train__eval_every=100,
        train__max_rollbacks=1,
        checkpoint__every=2,
        checkpoint__keep=9,
        optimizer__warmup_steps=1,
    )


@pytest.mark.long
def test_a_rollback_skips_the_bad_window_and_can_be_replayed(spiking: Config, tmp_path: Path):
    """Back to step 6, and past the rows of steps 7 to 9."""
    at_once = tmp_path / "at once"
    assert pretrain(spiking, workdir=at_once)
    (rollback,) = history(at_once, "rollback")
    assert (rollback["at"], rollback["to"], rollback["skipped_rows"]) == (9, 6, 48)
    assert [line["step"] for line in metrics(at_once)] == list(range(1, 13))
    for stop in (10, 12):  # a replay does the same, and so does a run that is resumed
        assert pretrain(replace(spiking, train__stop_at=stop), workdir=tmp_path / "again")
    assert_identical(at_once, tmp_path / "again")
    with Checkpoints(at_once, spec_of(spiking), read_only=True) as checkpoints:
        _, progress = checkpoints.restore(sharding.make_mesh(spiking.mesh))
    assert progress.position == 12 * 16 + 48, "the position in the stream is in the checkpoint"
    assert progress.rollbacks == 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [7, 10])
def test_the_batches_after_a_rollback_do_not_depend_on_a_log(spiking: Config, tmp_path: Path, stop: int):
    """Stopped before the spike or behind it; then both logs are gone."""
    assert pretrain(spiking, workdir=tmp_path / "at once")
    workdir = tmp_path / "run"
    assert pretrain(replace(spiking, train__stop_at=stop), workdir=workdir)
    for name in ("history.jsonl", "metrics.jsonl"):
        (workdir / name).unlink()
    assert pretrain(spiking, workdir=workdir)
    assert metrics(workdir)[-1] == metrics(tmp_path / "at once")[-1]
    one, other = state(workdir), state(tmp_path / "at once")
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


@pytest.mark.long
def test_no_more_rollbacks_than_allowed(spiking: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The count is in the checkpoint too: a restart does not renew the allowance."""
    assert pretrain(replace(spiking, train__max_rollbacks=0), workdir=tmp_path)
    assert history(tmp_path, "rollback") == []
    assert "0 of 0 rollbacks used" in caplog.text
