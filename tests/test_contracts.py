"""What other libraries say, where it is read: an upgrade that says it otherwise fails here.

Where a text is not recognized, something safe is done; that is tested too.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import sentencepiece
import tyro
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from bert_jax.cli import main as cli
from bert_jax.parallel import processes
from bert_jax.planning.plan import _ask
from bert_jax.workdir.checkpoint import _disk_errors
from data_pipeline import builder, tokenizer
from data_pipeline.config import TokenizerConfig
from data_pipeline.errors import UserError

# JAX, which finds no other processes

JOIN = "import jax; {}\ntry: jax.distributed.initialize()\nexcept Exception as error: print(error)"


@pytest.mark.parametrize(("reason", "before"), [*zip(processes.ALONE, ("", "jax.devices()"), strict=True)])
def test_jax_says_that_a_process_is_alone(reason: str, before: str):
    done = subprocess.run([sys.executable, "-c", JOIN.format(before)], capture_output=True, text=True)
    assert reason in done.stdout


def test_what_jax_says_otherwise_trains_nothing(monkeypatch: pytest.MonkeyPatch):
    """Two processes that both think they are alone would train in one workdir."""

    def initialize(**_: object) -> None:
        raise ValueError("no cluster was found\nlook at the docs")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=r"which processes the run has \(no cluster was found\); say it with"):
        processes.initialize()


# A disk that takes no more: TensorStore and ArrayRecord


def with_small_files(write: Callable[[], object]) -> None:
    """Calls `write` while the system refuses files of more than 10 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_tensorstore_gives_the_number_of_the_systems_error(tmp_path: Path):
    @_disk_errors(epath.Path(tmp_path))
    def save() -> None:
        checkpointer = ocp.StandardCheckpointer()
        checkpointer.save(tmp_path / "saved", {"x": np.random.default_rng(0).random(10_000)})
        checkpointer.wait_until_finished()

    with pytest.raises(OSError, match="a checkpoint cannot be written: File too large") as caught:
        with_small_files(save)
    assert caught.value.errno == errno.EFBIG


def test_a_status_of_tensorstore_without_a_number_is_the_disks_error_too(tmp_path: Path):
    with pytest.raises(OSError, match=r"cannot be written \(UNAVAILABLE: gone\)"), _disk_errors(tmp_path):
        raise ValueError("UNAVAILABLE: gone\n[source locations='file.cc']")
    with pytest.raises(ValueError, match="of our own making"), _disk_errors(tmp_path):
        raise ValueError("of our own making")


def test_arrayrecord_says_what_the_system_refused(tmp_path: Path):
    def write() -> None:
        with contextlib.closing(ArrayRecordWriter(str(tmp_path / "file"), "group_size:1")) as file:
            for _ in range(100):
                file.write(np.random.default_rng(0).bytes(2**16))

    with pytest.raises(RuntimeError, match=r"write\(\) failed: File too large;"):
        with_small_files(write)


def test_what_arrayrecord_says_otherwise_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def writer(*_: str) -> None:
        raise RuntimeError("the shelf is full\n  at file.cc:12")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", writer)
    with pytest.raises(OSError, match=r"the dataset cannot be written to .*: the shelf is full$"):
        builder.write_files(tmp_path, [(builder.Shard("train", 0, 1), [b"a"])])


# SentencePiece, with a vocabulary that is too small


def test_sentencepiece_says_how_many_pieces_it_needs():
    with pytest.raises(UserError, match=r"vocab_size 10 is too small: .* need \d+ pieces"):
        tokenizer.train(TokenizerConfig(kind="unigram", vocab_size=10), lambda: ["the quick brown fox"] * 9)


def test_what_sentencepiece_says_otherwise_is_passed_on(monkeypatch: pytest.MonkeyPatch):
    def train(**_: object) -> None:
        raise RuntimeError("the text is odd")

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
    with pytest.raises(UserError, match=r"cannot train data\.tokenizer on this corpus: the text is odd"):
        tokenizer.train(TokenizerConfig(kind="unigram"), lambda: ["the quick brown fox"])


# The TPU's compiler, with a program that is too large: what it says today is in tests/planning


def test_a_program_that_is_too_large_by_an_unknown_amount_does_not_fit():
    class Lowered:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: it is a bit much")

    compiled = _ask(Lowered(), hosts=[0])
    assert (compiled.refused, compiled.memory) == (True, float("inf"))


# tyro, with a command line that is wrong: what it says today is in tests/cli


def test_what_tyro_says_without_a_frame_is_passed_on(monkeypatch: pytest.MonkeyPatch):
    def parse(*_: object, **__: object) -> None:
        print("no such thing:\n  --train.stepz", file=sys.stderr)
        raise SystemExit(2)

    monkeypatch.setattr(tyro, "cli", parse)
    with pytest.raises(UserError, match=r"^no such thing: --train\.stepz$"):
        cli.run(["show-config", "configs/demo.py", "--train.stepz", "1"])
