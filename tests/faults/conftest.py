"""A short run that nothing disturbed, for the others to be compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.config import Config
from tests.helpers.configs import recipe_of, replace
from tests.helpers.runs import finish, start

SIGNALS = '''"""A process that finds "SIGTERM 0 save 8" in $SIGNAL sends itself that signal, if it is
process 0, once, as that phase of that step begins: however fast or slow the machine is."""
import os, signal
import jax
from bert_jax.run.clock import Clock

enter = Clock.enter

def enter_and_signal(self, phase, *, step):
    enter(self, phase, step=step)
    name, _, place = os.environ.get("SIGNAL", "").partition(" ")
    if place == f"{jax.process_index()} {phase} {step}":
        del os.environ["SIGNAL"]
        os.kill(os.getpid(), signal.Signals[name])

Clock.enter = enter_and_signal
'''


@pytest.fixture(scope="session")
def recipe(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny config, with 12 steps, a checkpoint every 4 and an evaluation every 6."""
    short = replace(
        config, train__steps=12, train__eval_every=6, checkpoint__every=4, checkpoint__keep_best=0
    )
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(SIGNALS + recipe_of(short))
    return path


@pytest.fixture(scope="session")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its workdir."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(recipe, workdir))
    return workdir
