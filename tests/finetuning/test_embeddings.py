"""Embeddings trained from the command line's functions: learned by heart, cut, stopped, resumed, asked."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import sentence_transformers

from bert_jax.config import Config, EmbeddingConfig, LateInteractionConfig, TaskConfig
from bert_jax.finetuning.finetune import finetune, finetuning_spec
from bert_jax.inference.predict import predictions
from bert_jax.interop.export import export
from bert_jax.interop.load import load_workdir
from bert_jax.interop.source import source_network, source_tokenizer
from bert_jax.tasks import task_of
from bert_jax.training.network import Network
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from tests.finetuning.test_finetune import config_of, encoder  # noqa: F401 a fixture
from tests.helpers.configs import replace
from tests.helpers.folders import write_folder
from tests.helpers.runs import metrics

PAIRS = [
    ("return the value", "what is given back"),
    ("the name of a class", "how a type is called"),
    ("called with two arguments", "there are two parameters"),
    ("raise an error", "an exception is thrown"),
    ("read the file line by line", "iterate over its lines"),
    ("a list of strings", "several texts"),
    ("the number of items", "its length"),
    ("open a connection", "connect to the server"),
]


def write_pairs(folder: Path) -> Path:
    """train.jsonl, several times over, and validation.jsonl. Returns the first."""
    for name, times in (("train", 8), ("validation", 1)):
        rows = [{"anchor": one, "positive": other} for one, other in PAIRS] * times
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl"


@pytest.fixture
def pairs(encoder: Path, tmp_path: Path) -> Config:  # noqa: F811
    return config_of(
        "embedding",
        encoder,
        write_pairs(tmp_path),
        validation=str(tmp_path / "validation.jsonl"),
        epochs=6.0,
        sequence_length=16,
        dropout=0.1,
        dimensions=(16,),
    )


@pytest.mark.long
def test_pairs_are_learned_by_heart(pairs: Config, tmp_path: Path):
    (result,) = finetune(pairs, workdir=tmp_path / "run")
    assert result.scores["mrr"] == result.scores["accuracy"] == 1.0
    lines = io.BytesIO("\n".join([*(text for pair in PAIRS for text in pair), "", "a"]).encode())
    found: list[dict[str, Any]] = []
    with pytest.raises(UserError, match=r"where something is empty, .* 1 of 18, standard input line 17"):
        found.extend(predictions(tmp_path / "run", file=None, lines=lines, batch_size=4, top=1))
    assert found[16] == {"error": "standard input line 17: 'anchor' is empty"}
    vectors = np.array([answer["embedding"] for answer in found[:16]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    cosines = vectors[::2] @ vectors[1::2].T
    assert cosines.argmax(axis=1).tolist() == list(range(8))
    export(tmp_path / "run", out=tmp_path / "out", dimensions=16)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu", truncate_dim=64)
    texts = [text for pair in PAIRS for text in pair]
    np.testing.assert_allclose(theirs.encode(texts), vectors, atol=1e-5)
    short = vectors[:, :16] / np.linalg.norm(vectors[:, :16], axis=1, keepdims=True)
    assert (short[::2] @ short[1::2].T).argmax(axis=1).tolist() == list(range(8))


@pytest.mark.slow
def test_what_is_trained_in_parts_and_resumed_is_the_same(pairs: Config, tmp_path: Path):
    """Gradient caching in microbatches rounds otherwise, and does nothing else; a stop has the same bits."""
    pairs = replace(pairs, task__epochs=1.0, train__global_batch_size=32, task__evaluations=2)
    finetune(pairs, workdir=tmp_path / "at once")
    finetune(replace(pairs, train__microbatches=4), workdir=tmp_path / "in parts")
    one, other = (metrics(tmp_path / name) for name in ("at once", "in parts"))
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in other], rel=1e-3)
    finetune(replace(pairs, train__stop_at=1), workdir=tmp_path / "stopped")
    finetune(pairs, workdir=tmp_path / "stopped")
    ends = [load_workdir(tmp_path / name)[1] for name in ("at once", "stopped")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "task", "asked", "expected"),
    [
        (
            EmbeddingConfig(sequence_length=32, pooling="cls", normalize=False, query_prompt="q: "),
            "embedding",
            {"pooling": "last"},
            {"pooling": "last", "normalize": False, "query_prompt": "q: ", "sequence_length": 16},
        ),
        (
            LateInteractionConfig(query_length=12, query_expansion=True, document_prompt="d: ", dimensions=8),
            "late_interaction",
            {"dimensions": 8, "query_length": 14},
            {"query_length": 14, "query_expansion": True, "document_prompt": "d: ", "sequence_length": 16},
        ),
        (EmbeddingConfig(pooling="cls", query_prompt="q: "), "late_interaction", {}, {"query_prompt": ""}),
    ],
)
def test_a_source_that_makes_vectors_is_trained_as_it_makes_them(
    encoder: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    settings: TaskConfig,
    task: str,
    asked: dict[str, Any],
    expected: dict[str, Any],
):
    model, words = source_network(encoder).model, tokenizer.load(source_tokenizer(encoder))
    source = write_folder(tmp_path / "source", Network(model, task_of(settings), settings), words)
    validation = str(write_pairs(tmp_path).with_stem("validation"))
    config = config_of(task, source, tmp_path / "train.jsonl", validation=validation, sequence_length=16)
    with caplog.at_level("INFO"):
        spec, _ = finetuning_spec(
            replace(config, **{f"task__{name}": value for name, value in asked.items()})
        )
    found = dataclasses.asdict(spec.network.settings)
    assert {name: found[name] for name in expected} == expected
    same_kind = task == settings.kind
    assert any(line.startswith(f"as in init.source {source}: ") for line in caplog.messages) == same_kind


def test_a_batch_of_one_has_nothing_to_compare(pairs: Config, tmp_path: Path):
    with pytest.raises(UserError, match=r"train\.global_batch_size is 1; it must be at least 2"):
        finetune(replace(pairs, train__global_batch_size=1), workdir=tmp_path / "run")


def test_vectors_are_not_cut_to_more_than_they_have(pairs: Config, tmp_path: Path):
    with pytest.raises(UserError, match=r"task\.dimensions has 512, but the vectors of init\.source have 64"):
        finetune(replace(pairs, task__dimensions=(512,)), workdir=tmp_path / "run")
