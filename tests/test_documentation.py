"""What the documentation shows is true: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bert_jax import cli
from data_pipeline.config import MaskingConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    """Code blocks of a language, or without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


class Enough(Exception):
    pass


def test_the_pipeline_feeds_a_pytorch_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example of the README, stopped after three batches."""
    (program,) = [block for block in blocks(PAGES[0], "python") if "import torch" in block]
    assert len(program.strip().splitlines()) <= 12
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


def commands() -> list[str]:
    """Every `bert-jax VERB ...` line in a block without a language, joined where it goes on."""
    lines = [
        line for page in PAGES for block in blocks(page) for line in block.replace("\\\n", "").split("\n")
    ]
    return [line.partition("#")[0].strip() for line in lines if re.match(r"bert-jax [a-z-]+ ", line)]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documentation_parses(command: str, monkeypatch: pytest.MonkeyPatch):
    """It is not run, but every flag of it exists, and its config file does."""
    monkeypatch.chdir(ROOT)
    _, verb, *arguments = shlex.split(command)
    ran = []
    monkeypatch.setattr(cli.VERBS[verb], "__call__", lambda self: ran.append(self) or 0)
    assert cli.run([verb, *arguments]) == 0
    assert len(ran) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_fields_are_real(page: Path):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for field in re.findall(r"`data\.masking\.(\w+)`", text):
        assert field in MaskingConfig.__dataclass_fields__
