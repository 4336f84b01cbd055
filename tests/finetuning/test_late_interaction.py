"""Late interaction from the command line: learned by heart, asked, exported, asked again, trained further."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers

from bert_jax.cli import main as cli
from bert_jax.config import (
    Config,
)
from bert_jax.inference.predict import predictions
from bert_jax.workdir.metrics_file import read_metrics
from tests.finetuning.test_embeddings import PAIRS, write_pairs
from tests.finetuning.test_finetune import config_of, encoder  # noqa: F401 a fixture
from tests.helpers.configs import recipe_of, replace


@pytest.fixture
def pairs(encoder: Path, tmp_path: Path) -> Config:  # noqa: F811
    config = config_of(
        "late_interaction",
        encoder,
        write_pairs(tmp_path),
        validation=str(tmp_path / "validation.jsonl"),
        epochs=6.0,
        sequence_length=16,
        query_length=12,
        query_expansion=True,
        query_prompt="? ",
        dimensions=8,
    )
    return replace(config, train__global_batch_size=16, train__microbatches=2)


@pytest.mark.long
def test_pairs_are_learned_by_heart(pairs: Config, tmp_path: Path):
    """And the exported folder is one of MultiVectorEncoder, with the same scores."""
    run, out = tmp_path / "run", tmp_path / "out"
    (tmp_path / "recipe.py").write_text(recipe_of(pairs))
    assert cli.run(["finetune", str(tmp_path / "recipe.py"), "--workdir", str(run)]) == 0
    last = max((step, split) for step, split in read_metrics(run / "metrics.jsonl") if split == "validation")
    found = read_metrics(run / "metrics.jsonl")[last]
    assert found["mrr"] == found["accuracy"] == 1.0
    assert cli.run(["export", "--workdir", str(run), "--out", str(out)]) == 0
    lines = [json.dumps({"anchor": one, "positive": other}).encode() for one, other in PAIRS]
    asked = {"file": None, "lines": lines, "batch_size": 4, "top": 1}
    ours, again = ([answer["score"] for answer in predictions(folder, **asked)] for folder in (run, out))
    np.testing.assert_allclose(ours, again, atol=1e-5)
    theirs = sentence_transformers.MultiVectorEncoder(str(out), device="cpu")
    queries, documents = (list(texts) for texts in zip(*PAIRS, strict=True))
    scores = theirs.similarity(theirs.encode_query(queries), theirs.encode_document(documents))
    np.testing.assert_allclose(np.diagonal(scores), ours, atol=1e-4)
    assert scores.argmax(axis=1).tolist() == list(range(8))
    card = (out / "README.md").read_text()
    assert (
        "8 numbers a token, of length 1, compared by MaxSim; queries of 12 tokens, documents of up to 16"
        in card
    )
    assert 'MultiVectorEncoder("DIR")' in card
