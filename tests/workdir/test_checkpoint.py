"""Checkpoints: one that is saved again is there at every moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.config import Config
from bert_jax.training.step import init_state
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.inventory import set_aside, steps_of, validation_metrics
from bert_jax.workdir.progress import Progress
from tests.helpers.configs import replace, spec_of

FOUND = {"loss": 1.5, "mlm_accuracy": 0.5}


@pytest.fixture
def saved_once(config: Config, tmp_path: Path) -> Path:
    """A workdir with a checkpoint of step 3, saved by a signal before its evaluation."""
    spec = spec_of(config)
    with Checkpoints(tmp_path, spec) as checkpoints:
        checkpoints.save(3, init_state(spec), Progress())
    assert validation_metrics(tmp_path, 3) is None
    return tmp_path


def test_a_checkpoint_is_saved_again_with_what_its_evaluation_found(config: Config, saved_once: Path):
    spec = spec_of(config)
    with Checkpoints(saved_once, spec) as checkpoints:
        checkpoints.save(3, init_state(spec), Progress(), validation=FOUND)
        assert checkpoints.latest_step() == 3
        checkpoints.save(4, init_state(spec), Progress())
        checkpoints.wait()
    assert steps_of(saved_once) == [4, 3]
    assert validation_metrics(saved_once, 3) == FOUND
    assert list((saved_once / "replaced").iterdir()) == []


def test_a_kill_in_between_leaves_the_first_one(config: Config, saved_once: Path):
    set_aside(saved_once, 3, folder="replaced")
    assert steps_of(saved_once) == []
    with Checkpoints(saved_once, spec_of(config)) as checkpoints:
        assert checkpoints.latest_step() == 3
    assert steps_of(saved_once) == [3]


def test_a_full_disk_in_between_leaves_the_first_one(config: Config, saved_once: Path, monkeypatch):
    spec = spec_of(config)
    with Checkpoints(saved_once, spec) as checkpoints:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        set_aside_only = Checkpoints._set_aside

        def set_aside_and_fill(self: Checkpoints, step: int) -> None:
            set_aside_only(self, step)
            monkeypatch.setattr(self._manager, "save", refuse)

        monkeypatch.setattr(Checkpoints, "_set_aside", set_aside_and_fill)
        checkpoints.save(3, init_state(spec), Progress(), validation=FOUND)
        assert steps_of(saved_once) == [3]
        assert checkpoints.latest_step() == 3
        checkpoints.save(4, init_state(spec), Progress())
    assert steps_of(saved_once) == [4, 3]


def test_the_best_are_those_of_one_metric(config: Config, saved_once: Path):
    """Of a run whose metric has changed, values of two would be ranked together."""
    other = spec_of(replace(config, checkpoint__best="mlm_accuracy"))
    with (
        Checkpoints(saved_once, other, read_only=True) as checkpoints,
        pytest.raises(ValueError, match=r"checkpoint\.best is 'loss', not 'mlm_accuracy'"),
    ):
        checkpoints.restore_params(None)
