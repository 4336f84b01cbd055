"""A short run that nothing disturbed, for the others to be compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bert_jax.config import Config, to_json
from tests.conftest import replace
from tests.runs import finish, start


@pytest.fixture(scope="session")
def recipe(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny config, with 12 steps, a checkpoint every 4 and an evaluation every 6."""
    short = replace(
        config, train__steps=12, train__eval_every=6, checkpoint__every=4, checkpoint__keep_best=0
    )
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(
        "from bert_jax.config import from_json\n"
        f"def get_config():\n    return from_json({to_json(short)!r})\n"
    )
    return path


@pytest.fixture(scope="session")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its workdir."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(recipe, workdir))
    return workdir
