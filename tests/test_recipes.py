"""Recipes: what each config file makes, as text in tests/golden/, to be read in a review.

A golden file holds the resolved config and every parameter of the model. One that differs is a bug if nobody
meant to change recipes, defaults or parameters: runs of today would not go on tomorrow. If it was meant,

    python -m tests.test_recipes

writes them anew; read their diff before it is committed.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from bert_jax.cli import main as cli
from bert_jax.cli.data_verbs import Prepare
from bert_jax.cli.phases import Check
from bert_jax.cli.training_verbs import Pretrain
from bert_jax.cli.verbs import VERBS
from bert_jax.config import BertConfig, Config, EncoderConfig, load_phases, load_recipe
from bert_jax.objectives import objective_for
from bert_jax.ops.attention import xla
from bert_jax.parallel.platform import Platform
from bert_jax.tasks import task_of
from bert_jax.training.batch_ramp import make_stages, position_at
from bert_jax.training.network import Network, Parameter, parameters
from tests.helpers.configs import replace, spec_of
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
GOLDEN = ROOT / "tests/golden"
BERT_BASE, BERT_LARGE = 110_106_428, 336_226_108
"""Parameters of google-research/bert's models with both heads; the paper (section 3) says 110M and 340M."""


def golden(path: Path) -> Iterator[str]:
    """The lines of a recipe's golden file; of each phase but the first what differs from the one before."""
    phases = load_phases(path)
    config = next(iter(phases.values()))
    yield from _fields(config)
    for (_, before), (name, after) in itertools.pairwise(phases.items()):
        known = {*_fields(before)}
        yield from ("", f"phase {name}", *(line for line in _fields(after) if line not in known))
    yield ""
    if config.task is None and not isinstance(config.model, EncoderConfig):
        yield "the parameters are those of init.source"
        return
    rows = [("parameter", "shape", "logical axes", "decays", "in Transformers")]
    decaying = total = 0
    for name, parameter in declared(config).items():
        shape, size = " x ".join(map(str, parameter.shape)), math.prod(parameter.shape)
        axes, decays = ", ".join(map(str, parameter.logical_axes)), "yes" if parameter.decay else "no"
        rows.append((name, shape, axes, decays, parameter.huggingface))
        total += size
        decaying += size if parameter.decay else 0
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    yield f"{total:,} parameters in {len(rows) - 1} arrays; {decaying:,} of them decay"


def _fields(config: Config) -> Iterator[str]:
    for section in dataclasses.fields(config):
        yield from _values(section.name, getattr(config, section.name))


def _values(path: str, value: Any) -> Iterator[str]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _values(f"{path}.{field.name}", getattr(value, field.name))
    else:
        yield f"{path} = {value!r}"


def declared(config: Config) -> dict[str, Parameter]:
    """Every parameter by its path; a fine-tuning has the encoder of BERT-base and two labels here."""
    if config.task is None:
        network = Network(
            config.model, *objective_for(config.objective, input_format=config.data.input_format)
        )
    else:
        labels = {"labels": ("0", "1")} if hasattr(config.task, "labels") else {}
        network = Network(BertConfig(), task_of(config.task), dataclasses.replace(config.task, **labels))
    found = jax.tree.leaves_with_path(parameters(network))
    return {jax.tree_util.keystr(path, simple=True, separator="."): parameter for path, parameter in found}


def count(config: Config) -> int:
    return sum(math.prod(parameter.shape) for parameter in declared(config).values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_makes_what_it_made(path: Path):
    file = GOLDEN / f"{path.stem}.txt"
    expected = file.read_text().splitlines() if file.is_file() else []
    assert list(golden(path)) == expected, (
        f"{path.name} makes another run than tests/golden/{file.name} says. If no one meant to change the "
        "recipe, a default or a parameter, that is a bug: runs that exist would not go on. If it was meant: "
        "python -m tests.test_recipes writes the file anew; read its diff before it is committed"
    )


def test_every_golden_file_has_its_recipe():
    assert {file.stem for file in GOLDEN.iterdir()} == {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("demo", 963_074),
        ("bert_base", BERT_BASE + 70 * 769),  # rows of padding, and their biases
        ("continue_bert_base", BERT_BASE + 70 * 769),
        ("bert_large", BERT_LARGE + 70 * 1025),
        ("bert_large_lamb", BERT_LARGE + 70 * 1025),
    ],
)
def test_parameters_are_as_many_as_published(name: str, parameters: int):
    assert count(load_recipe(ROOT / f"configs/{name}.py")) == parameters


def test_the_vocabulary_of_roberta_adds_as_many_as_its_paper_says():
    """About 15 million (Liu et al. 2019, section 4.4); it has neither pooler nor next-sentence head."""
    found = count(load_recipe(ROOT / "configs/roberta_base.py"))
    assert found - (BERT_BASE - 768 * 769 - 2 * 769) == pytest.approx(15e6, rel=0.01)
    assert not [name for name in declared(load_recipe(ROOT / "configs/roberta_base.py")) if "nsp" in name]


def test_lamb_warms_up_for_the_share_of_its_steps_that_it_says():
    optimizer, train = (
        getattr(load_recipe(ROOT / "configs/bert_large_lamb.py"), s) for s in ("optimizer", "train")
    )
    assert optimizer.warmup_steps == round(0.2843 * train.steps, -1) == 2_000
    assert round(0.128 * 1563) == 200


def test_cramming_is_the_day_that_it_says():
    config = load_recipe(ROOT / "configs/cramming.py")
    train = config.train
    assert train.hours == 24
    assert config.optimizer.warmup_steps == 3 / 4
    stages = make_stages(train, max_steps=train.steps)
    rows = position_at(stages, train.steps)
    assert 81.5e6 < rows < 82.5e6 < 85e6
    assert position_at(stages, train.batch_ramp_steps) / rows == pytest.approx(1 / 2, abs=1e-3)


LONG = [
    (path.stem, phase, config)
    for path in CONFIGS
    for phase, config in load_phases(path).items()
    if config.task is None and config.data.sequence_length >= 512 and isinstance(config.model, EncoderConfig)
]


@pytest.mark.parametrize(
    ("name", "phase", "config"), LONG, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("platform", [Platform("tpu"), Platform("cuda", 9.0)], ids=lambda p: p.name)
def test_no_recipe_of_long_rows_holds_all_attention_probabilities_at_once(
    name: str, phase: str, config: Config, platform: Platform
):
    """[B, H, S, S]: each has a fused kernel, or one that goes block by block, on a TPU and on Hopper."""
    if name == "modernbert_mini":
        config = replace(config, model__dtype="bfloat16")  # it is for CPUs
    assert xla not in spec_of(config, platform=platform).kernels


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def commands(path: Path) -> list[str]:
    """The indented `bert-jax VERB ...` lines of a recipe's docstring, joined where they go on."""
    lines = docstring(path).replace("\\\n", "").splitlines()
    found = [line.strip() for line in lines if re.match(r" +bert-jax [a-z-]+ ", line)]
    return [command.partition(" < ")[0] for command in found]


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command line would run: its flags and files exist."""
    (ran,) = all_parsed(command, monkeypatch)
    return ran


def all_parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The same of a recipe of several phases."""
    _, verb, *arguments = shlex.split(command)
    ran: list[Any] = []
    monkeypatch.chdir(ROOT)
    for command in (VERBS[verb], Check):
        monkeypatch.setattr(command, "__call__", lambda self: ran.append(self) or 0)
    assert cli.run([verb, *arguments]) == 0
    return ran


@pytest.mark.long
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_commands_of_a_recipe_belong_together(path: Path, monkeypatch: pytest.MonkeyPatch):
    """They parse; each run reads a dataset that was prepared for it, and has a workdir of its own."""
    found = commands(path)
    assert found
    runs = [run for command in found for run in all_parsed(command, monkeypatch)]
    prepared = {run.config.data.dir: run.config.data for run in runs if isinstance(run, Prepare)}
    pretrained = [run for run in runs if isinstance(run, Pretrain)]
    for run in pretrained:
        data = run.config.data
        same = prepared[data.dir]
        assert (data.sequence_length, data.input_format) == (same.sequence_length, same.input_format)
        assert data.masking == same.masking
    for one, other in itertools.combinations(pretrained, 2):
        assert one.workdir != other.workdir or one.config == other.config, "the same, as a phase by its name"


@pytest.mark.parametrize("name", ["bert_base", "bert_large", "bert_large_lamb"])
def test_a_second_phase_goes_on_from_the_first(name: str, monkeypatch: pytest.MonkeyPatch):
    found = [parsed(command, monkeypatch) for command in commands(ROOT / f"configs/{name}.py")]
    first_data, second_data = (run.config.data for run in found if isinstance(run, Prepare))
    first, second = (run for run in found if isinstance(run, Pretrain))
    assert second.config.init.source == str(first.workdir)
    assert second_data.tokenizer.vocab_file == f"{first_data.dir}/tokenizer/vocab.txt"
    assert (second.config.data.sequence_length, second.config.data.masking.max_predictions) == (512, 77)
    assert second.config.model == first.config.model
    if name != "bert_large_lamb":
        assert first.config.train.steps + second.config.train.steps == 1_000_000
        assert second.config.optimizer.learning_rate == first.config.optimizer.end_learning_rate
        decay = 1e-4 * 100_000 / (1_000_000 - first.config.optimizer.warmup_steps)
        assert second.config.optimizer.learning_rate == pytest.approx(decay, rel=0.001)
        assert second.config.optimizer.end_learning_rate == 0


PLANS = [
    (path, command) for path in CONFIGS for command in commands(path) if command.startswith("bert-jax plan ")
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "command"), PLANS)
def test_a_recipe_fits_the_hardware_that_it_names(path: Path, command: str):
    """As the TPU's compiler sees it: minutes each, or from runs/compiled if the step was asked for before.

    The docstring has its figures.
    """
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install 'bert-jax[tpu]'")
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax", *shlex.split(command)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    memory = re.search(r"in all +([\d.]+) GiB  fits", done.stdout)
    cost = re.search(r"([\d,]+) steps +([\d.]+) hours, ([\d,]+) chip-hours", done.stdout)
    assert memory is not None, done.stdout
    assert cost is not None, done.stdout
    steps, hours, chip_hours = (float(number.replace(",", "")) for number in cost.groups())
    recipe = shlex.split(command)[2]
    if load_recipe(recipe).train.hours is None:
        assert says(path, f"{hours:.1f}"), cost[0]
    else:  # they are given, and the steps are what is found
        assert says(path, f"{round(steps, -3):,.0f}"), cost[0]
    assert says(path, f"{float(memory[1]):.1f}"), memory[0]
    stated = re.findall(r"([\d,]+) chip-hours", docstring(path))
    assert any(float(number.replace(",", "")) == pytest.approx(chip_hours, rel=0.02) for number in stated)


def says(path: Path, number: str) -> bool:
    """Whether a docstring has it, and not as a part of another number."""
    return re.search(rf"(?<![\d.,]){re.escape(number)}(?![.,]?\d)", docstring(path)) is not None


def test_a_part_of_a_number_is_not_that_number():
    recipe = ROOT / "configs/bert_large_lamb.py"
    assert says(recipe, "0.6")
    assert says(recipe, "14.0")
    assert not says(recipe, "4.0")
    assert not says(recipe, "14")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    GOLDEN.mkdir(exist_ok=True)
    for file in GOLDEN.glob("*.txt"):
        file.unlink()
    for path in CONFIGS:
        (GOLDEN / f"{path.stem}.txt").write_text("\n".join(golden(path)) + "\n")


if __name__ == "__main__":
    main()
