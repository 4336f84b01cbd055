"""Real weights, real labels: all-MiniLM-L6-v2 fine-tuned on a slice of SST-2 (minutes, `make test-slow`)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import load_recipe
from bert_jax.finetuning.finetune import finetune
from bert_jax.inference.predict import predictions
from bert_jax.interop.export import export
from tests.helpers.configs import replace
from tests.helpers.examples import MINILM
from tests.helpers.paths import SHARED_DATA

SST2 = SHARED_DATA / "sst2"


@pytest.mark.slow
@pytest.mark.skipif(not SST2.exists(), reason="no SST-2 here")
def test_two_thousand_examples_are_enough_for_four_in_five(tmp_path: Path):
    """And the exported model says the same in PyTorch of all 872 sentences of the development set."""
    with (SST2 / "train.tsv").open() as file:
        (tmp_path / "train.tsv").write_text("".join(islice(file, 2001)))
    config = replace(
        load_recipe("configs/finetune_classification.py"),
        init__source=str(MINILM),
        task__train=str(tmp_path / "train.tsv"),
        task__validation=str(SST2 / "test.tsv"),
        optimizer__learning_rate=1e-4,
    )
    (result,) = finetune(config, workdir=tmp_path / "run")
    print(result.scores)
    assert result.scores["accuracy"] > 0.8

    export(tmp_path / "run", out=tmp_path / "out")
    asked = {"lines": (), "batch_size": 64, "top": 1}
    ours = list(predictions(tmp_path / "out", file=str(SST2 / "test.tsv"), **asked))
    lines = (SST2 / "test.tsv").read_text().splitlines()[1:]
    texts = [line.split("\t")[0] for line in lines]
    theirs = in_pytorch(tmp_path / "out", texts)
    assert len(ours) == len(theirs) == len(lines) == 872
    for said, row in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(list(said["scores"].values()), row, atol=2e-5)
        assert said["label"] == str(row.argmax())
    right = [said["label"] == line.split("\t")[1].strip() for said, line in zip(ours, lines, strict=True)]
    assert np.mean(right) == pytest.approx(result.scores["accuracy"], abs=1e-3)


def in_pytorch(folder: Path, texts: list[str]) -> np.ndarray:
    """[N, 2] probabilities."""
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    parts = []
    with torch.no_grad():
        for first in range(0, len(texts), 64):
            batch = tokenizer(texts[first : first + 64], padding=True, truncation=True, return_tensors="pt")
            parts.append(theirs(**batch).logits.softmax(dim=-1).numpy())
    return np.concatenate(parts)
