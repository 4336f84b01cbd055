"""A recipe of several phases: one command runs them one after the other, and the same again resumes."""

from __future__ import annotations

import itertools
from pathlib import Path

import optax
import pytest

from bert_jax.cli.main import run
from bert_jax.config import Config, load_phases, load_recipe
from bert_jax.parallel.exit_status import OK
from bert_jax.workdir.checkpoint import read_state
from bert_jax.workdir.inventory import steps_of
from bert_jax.workdir.run_files import load_config, load_spec
from data_pipeline.errors import UserError
from tests.helpers.configs import recipe_of, replace
from tests.helpers.runs import assert_identical, finish, start, state, wait_until

PHASES = ("short_rows", "long_rows", "decay")


@pytest.fixture(scope="module")
def recipe(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phases of four steps on one dataset; the second goes on with the moments of the first."""
    first = replace(config, train__steps=4, optimizer__warmup_steps=1, optimizer__schedule="constant")
    second = replace(first, optimizer__warmup_steps=0, init__optimizer_state=True)
    third = replace(second, optimizer__schedule="linear", init__optimizer_state=False)
    defined = "\n".join(
        recipe_of(phase).replace("get_config", name)
        for name, phase in zip(PHASES, (first, second, third), strict=True)
    )
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    phases = ", ".join(f"{name!r}: {name}()" for name in PHASES)
    path.write_text(f"{defined}\ndef get_phases():\n    return {{{phases}}}\n")
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of all phases."""
    workdir = tmp_path_factory.mktemp("whole")
    assert run(["pretrain", str(recipe), "--workdir", str(workdir)]) == OK
    return workdir


@pytest.mark.long
def test_each_phase_starts_from_the_weights_of_the_one_before(whole: Path):
    assert load_config(whole / PHASES[0]).init.source is None
    for before, phase in itertools.pairwise(PHASES):
        assert steps_of(whole / phase)[0] == 4
        assert load_config(whole / phase).init.source == str(whole / before)
    # The moments of Adam: four steps of the first phase and four of the second; the third began anew.
    ends = [read_state(whole / phase, load_spec(whole / phase)) for phase in PHASES]
    assert [int(optax.tree_utils.tree_get(end.opt_state, "count")) for end in ends] == [4, 8, 4]


@pytest.mark.long
def test_the_same_command_again_changes_nothing(recipe: Path, whole: Path):
    ends = [state(whole / phase) for phase in PHASES]
    assert run(["pretrain", str(recipe), "--workdir", str(whole)]) == OK
    for phase, end in zip(PHASES, ends, strict=True):
        again = state(whole / phase)
        assert all((again[name] == end[name]).all() for name in end)


@pytest.mark.long
def test_a_phase_by_its_name_is_the_same_run(recipe: Path, whole: Path, tmp_path: Path):
    """With the source that the whole recipe gives it."""
    named, source = f"{recipe}:long_rows", str(whole / "short_rows")
    assert run(["pretrain", named, "--workdir", str(tmp_path / "run"), "--init.source", source]) == OK
    assert load_config(tmp_path / "run") == load_config(whole / "long_rows")
    assert_identical(tmp_path / "run", whole / "long_rows")


@pytest.mark.slow
def test_killed_inside_of_phases_and_between_them_it_ends_as_if_nothing_had_been(
    recipe: Path, tmp_path: Path
):
    flags = ("--train.log-every", "1", "--checkpoint.every", "2")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(start(recipe, undisturbed, *flags))

    def has(phase: str, step: int) -> bool:
        return step in steps_of(killed / phase)

    first, second, third = PHASES
    for condition in (
        lambda: has(first, 2),
        lambda: has(first, 4) and (killed / second).is_dir(),
        lambda: has(second, 2),
        lambda: has(third, 2),
    ):
        process = start(recipe, killed, *flags)
        wait_until(condition, process)
        process.kill()
        process.communicate()
    finish(start(recipe, killed, *flags))
    for phase in PHASES:
        assert_identical(undisturbed / phase, killed / phase)


def test_a_later_phase_that_would_be_refused_is_refused_before_the_first(recipe: Path, tmp_path: Path):
    broken = tmp_path / "recipe.py"
    broken.write_text(
        f"from bert_jax.config import delta, load_phases\n"
        f"def get_phases():\n"
        f"    phases = load_phases({str(recipe)!r})\n"
        f"    return phases | {{'decay': delta(phases['decay'], train={{'global_batch_size': 12}})}}\n"
    )
    with pytest.raises(UserError, match="global_batch_size 12 is not divisible by 8"):
        run(["pretrain", str(broken), "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate", "{}", "--workdir", "x"],
            "has the phases short_rows, long_rows, decay: name",
        ),
        (
            ["pretrain", "{}:middle", "--workdir", "x"],
            "has no phase 'middle'; it has the phases short",
        ),
        (["pretrain", "{}:long_rows", "--workdir", "x"], "init.optimizer_state is for a run that goes on"),
        (
            ["pretrain", "{}", "--workdir", "x", "--train.stop-at", "2"],
            "train.stop_at follows from the phases",
        ),
        (["pretrain", "{}", "--workdir", "x", "--init.no-weights"], "init.weights: a phase goes on from"),
    ],
)
def test_what_cannot_be_meant_is_said(recipe: Path, arguments: list[str], message: str):
    with pytest.raises(UserError, match=message):
        run([argument.format(recipe) for argument in arguments])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_phases(): return {}", "returns no dict of configs"),
        ("def get_phases(): return {'a': 3}", "returns int as 'a', not bert_jax.config.Config"),
        (
            "from bert_jax.config import *\ndef get_phases(): return {'../a': Config()}",
            r"has the phase '\.\./a': names are of a-z",
        ),
    ],
)
def test_phases_that_are_none_are_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_phases(path)


def test_a_file_with_one_config_has_one_phase_without_a_name(config: Config, tmp_path: Path):
    path = tmp_path / "one.py"
    path.write_text(recipe_of(config))
    assert load_phases(path) == {"": config}
    with pytest.raises(UserError, match="has no phase 'decay'; it has one phase, without a name"):
        load_recipe(f"{path}:decay")
