"""What the documentation shows is true: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax.cli import main as cli
from bert_jax.cli.verbs import VERBS
from data_pipeline.config import MaskingConfig
from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    """Code blocks of a language, or without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


class Enough(Exception):
    pass


@pytest.mark.long
def test_the_pipeline_feeds_a_pytorch_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example of docs/data.md, stopped after three batches."""
    (program,) = [block for block in blocks(ROOT / "docs/data.md", "python") if "import torch" in block]
    assert len(program.strip().splitlines()) <= 13
    seen: list[tuple[int, ...]] = []

    def train_step(tensors: dict) -> None:
        seen.append(tuple(tensors["token_ids"].shape))
        assert tensors["mlm_weights"].sum() > 0
        if len(seen) == 3:
            raise Enough

    monkeypatch.chdir(tmp_path)
    with pytest.raises(Enough):
        exec(program, {"__name__": "__main__", "train_step": train_step})
    assert seen == [(32, 128)] * 3


def shell() -> list[str]:
    """Each line of the blocks without a language, joined where it goes on, and the code within the text."""
    found: list[str] = []
    for page in PAGES:
        for block in blocks(page):
            found += block.replace("\\\n", "").split("\n")
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    return [line.partition("#")[0].strip() for line in found]


def matching(pattern: str) -> list[str]:
    """What a group of it finds in the shell's lines, each once."""
    return list(dict.fromkeys(found for line in shell() for found in re.findall(pattern, line)))


PLACEHOLDERS = {"CONFIG": "configs/demo.py", "DIR": "runs/demo"}


@pytest.mark.parametrize("command", matching(r"(?:^|\s)(bert-jax [a-z-]+ .+)"))
def test_a_command_of_the_documentation_parses(command: str, monkeypatch: pytest.MonkeyPatch):
    """It is not run, but every flag of it exists, and its config file does."""
    monkeypatch.chdir(ROOT)
    _, verb, *arguments = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    ran = []
    monkeypatch.setattr(cli, "_folders", contextlib.nullcontext)  # a bucket is not asked for
    monkeypatch.setattr(VERBS[verb], "__call__", lambda self: ran.append(self) or 0)
    assert cli.run([verb, *arguments]) == 0
    assert len(ran) == 1


@pytest.mark.parametrize("command", matching(r"python -m (tests\.(?:benchmarks|device)\.\w+.*)"))
def test_a_benchmark_of_the_documentation_takes_its_flags(command: str, monkeypatch: pytest.MonkeyPatch):
    """It goes no further than to read them."""
    name, *_ = arguments = shlex.split(command)
    module, parse = importlib.import_module(name), argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise Enough

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", arguments)
    assert "parse_args" in inspect.getsource(module.main)
    with pytest.raises(Enough):
        module.main()


def test_what_is_to_be_made_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(matching(r"^make ([a-z-]+)"))
    assert {"demo", "test"} <= named <= targets


def test_commands_are_found_wherever_they_are_shown():
    found = matching(r"(?:^|\s)(bert-jax [a-z-]+ .+)")
    assert "bert-jax predict runs/sentiment" in found, "behind a pipe"
    assert "bert-jax pretrain configs/bert_base.py --workdir runs/my-bert" in found, "behind a variable"
    assert "bert-jax plan configs/bert_large.py --topology v5e:16x16" in found, "in the text, over two lines"
    assert "tests.benchmarks.step --repeats 5" in matching(r"python -m (tests\.benchmarks\.\w+.*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_fields_are_real(page: Path):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for field in re.findall(r"`data\.masking\.(\w+)`", text):
        assert field in MaskingConfig.__dataclass_fields__


def test_each_term_is_found_by_its_grep():
    """The table of CONTRIBUTING.md: who greps for the field's term finds the file that owns it."""
    rows = re.findall(
        r"^\| .+ \| `(\S+)` \| `(grep .+)` \|$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M
    )
    assert len(rows) == 10
    for file, command in rows:
        found = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True).stdout
        files = [line.partition(":")[0] for line in found.splitlines()]
        assert file in files, command
        assert len(set(files)) <= 8, f"{command} finds {len(set(files))} files"
