"""The offline job: the same corpus gives the same dataset, and what is there is finished."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace as change
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.config import Config
from data_pipeline import corpus, tokenizer
from data_pipeline import prepare as module
from data_pipeline.config import DataConfig, TokenizerConfig
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare


@pytest.fixture
def data(config: Config, tmp_path: Path) -> DataConfig:
    """The tiny config, not prepared yet."""
    return change(config.data, dir=str(tmp_path / "data"))


def rows_of(data: DataConfig, split: str) -> list[dict[str, np.ndarray]]:
    return list(tfds.builder_from_directory(data.dir).as_data_source(split))


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_the_same_corpus_gives_the_same_dataset(data: DataConfig, tmp_path: Path, kind: str):
    data = change(data, tokenizer=TokenizerConfig(kind=kind, vocab_size=700))
    first = prepare(data)
    second = prepare(change(data, dir=str(tmp_path / "again")))
    assert first == second
    other = prepare(change(data, dir=str(tmp_path / "other"), seed=1))
    assert other.fingerprint != first.fingerprint


def test_tfds_opens_the_directory_and_the_manifest_tells_what_is_in_it(config: Config):
    manifest = Manifest.load(Path(config.data.dir))
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    assert manifest.tokenizer_sha256 == words.sha256
    assert manifest.special_ids == words.special_ids
    counts = {}
    for split in ("train", "validation"):
        rows = rows_of(config.data, split)
        assert len(rows) == manifest.rows[split] > 0
        assert sum(len(row["token_ids"]) for row in rows) == manifest.tokens[split]
        assert sum(len(row["nsp_labels"]) for row in rows) == manifest.sequences[split]
        for row in rows:
            assert row["segment_lengths"].sum() == len(row["token_ids"]) <= config.data.sequence_length
            assert len(row["nsp_labels"]) <= config.data.max_sequences_per_row
            starts = np.cumsum(row["segment_lengths"].reshape(-1, 2).sum(1))[:-1]
            assert all(row["token_ids"][start] == words.ids["[CLS]"] for start in [0, *starts])
        counts[split] = Counter(
            int(t) for row in rows for t in row["token_ids"] if t not in words.special_ids
        )
    total = sum(counts["train"].values()) + words.vocab_size - 5
    nll = sum(-n * math.log((counts["train"][t] + 1) / total) for t, n in counts["validation"].items())
    assert manifest.unigram_loss == pytest.approx(nll / sum(counts["validation"].values()), rel=1e-9)


def test_validation_documents_are_held_out_of_training(data: DataConfig, tmp_path: Path):
    """A word that only held-out documents have is not in the training rows."""
    documents = [f"Common words are here. Number {i}.\nA second line of words." for i in range(200)]
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    data = change(
        data,
        source=f"files:{tmp_path}/a.txt",
        tokenizer=TokenizerConfig(vocab_size=100),
        validation_fraction=0.2,
    )
    manifest = prepare(data)
    assert manifest.documents["train"] + manifest.documents["validation"] == 200
    assert 20 < manifest.documents["validation"] < 60
    words = tokenizer.load(Path(data.dir) / "tokenizer")
    text = {
        split: " ".join(
            words._sentencepiece.decode(row["token_ids"].tolist()) for row in rows_of(data, split)
        )
        for split in ("train", "validation")
    }
    numbers = {
        split: {
            int(word.rstrip(".")) for word in line.replace(".", ". ").split() if word.rstrip(".").isdigit()
        }
        for split, line in text.items()
    }
    assert not numbers["train"] & numbers["validation"]


def test_the_tokenizer_sees_no_held_out_document(data: DataConfig, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    train = tokenizer.train

    def spy(config, lines):
        seen.extend(lines())
        return train(config, lines)

    monkeypatch.setattr(tokenizer, "train", spy)
    prepare(data)
    held_out = {line for document in module._documents(data, "validation") for line in document.lines}
    training = {line for document in module._documents(data, "train") for line in document.lines}
    assert set(seen) == training
    assert held_out - training


def test_a_large_dataset_is_in_several_files_with_the_same_rows(
    data: DataConfig, config: Config, monkeypatch: pytest.MonkeyPatch
):
    small = {"characters": 20_000}
    monkeypatch.setattr(module, "blocks", lambda stream: corpus.blocks(stream, **small))
    one = prepare(change(data, dir=f"{data.dir}-one"))
    monkeypatch.setattr(module, "SHARD_CHARACTERS", 60_000)
    several = prepare(data)
    files = sorted(path.name for path in Path(data.dir).glob("*-train.array_record*"))
    assert len(files) > 3
    assert files[0].endswith(f"-00000-of-{len(files):05d}")
    assert several == one
    for a, b in zip(
        rows_of(change(data, dir=f"{data.dir}-one"), "train"), rows_of(data, "train"), strict=True
    ):
        assert (a["token_ids"] == b["token_ids"]).all()


def test_the_parts_of_a_long_document_are_not_random_next_to_each_other(config: Config):
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    lines = [f"Line number {i} of a long book about everything." for i in range(200)]
    parts = [corpus.Document(b"book", lines[i : i + 20]) for i in range(0, 200, 20)]
    rows = module.rows_of_block(config.data, parts, words, seed="0")
    assert {sequence.label for row in rows for sequence in row} <= {0, 2}
    other = corpus.Document(b"other", lines)
    rows = module.rows_of_block(config.data, [*parts, other], words, seed="0")
    assert 1 in {sequence.label for row in rows for sequence in row}


def test_without_next_sentences_every_token_is_there_once(data: DataConfig):
    data = change(data, objective="full_sentences", max_sequences_per_row=1)
    manifest = prepare(data)
    words = tokenizer.load(Path(data.dir) / "tokenizer")
    assert manifest.majority_nsp_accuracy is None
    lines = [line for document in module._documents(data, "train") for line in document.lines]
    expected = [t for ids in words.encode_batch(lines) for t in ids]
    special = {words.ids["[CLS]"], words.ids["[SEP]"]}
    found = [int(t) for row in rows_of(data, "train") for t in row["token_ids"] if t not in special]
    assert found == expected


def test_a_validation_fraction_of_0_makes_no_validation_split(data: DataConfig):
    manifest = prepare(change(data, validation_fraction=0.0))
    assert set(manifest.rows) == {"train"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One document only.\nIn two lines.", "1 document.*a blank line ends a document"),
        ("", "has no text in it"),
    ],
)
def test_a_corpus_that_cannot_be_split_says_what_to_do(
    data: DataConfig, tmp_path: Path, text: str, message: str
):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(change(data, source=f"files:{tmp_path}/a.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_what_exists_is_not_overwritten(config: Config):
    with pytest.raises(FileExistsError, match="exists already; delete it"):
        prepare(config.data)


def test_a_fault_in_the_middle_leaves_nothing(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: object, **names: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(tokenizer.Tokenizer, "save", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        prepare(data)
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys
from bert_jax.config import from_json
from data_pipeline.prepare import prepare
prepare(from_json(open(sys.argv[1]).read()).data)
"""


def start(config: Config, data: DataConfig, folder: Path, program: str = PROGRAM) -> subprocess.Popen:
    from bert_jax.config import to_json

    (folder / "config.json").write_text(to_json(change(config, data=data)))
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "config.json")],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_it_does_not_look_finished_and_starts_again(
    config: Config, data: DataConfig, tmp_path: Path
):
    process = start(config, data, tmp_path)
    while not Path(f"{data.dir}.unfinished").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not Path(data.dir).exists()
    prepare(data)
    assert not Path(f"{data.dir}.unfinished").exists()


def test_no_space_left_leaves_nothing(config: Config, data: DataConfig, tmp_path: Path):
    """A limit on the size of files stands for a full disk: writing fails in the same place."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))" + PROGRAM
    process = start(config, data, tmp_path, limited)
    error = process.communicate()[1]
    assert process.returncode != 0
    assert "File too large" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
