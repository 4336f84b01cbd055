"""A cross-encoder learned by heart, exported, and asked by Sentence Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import sentence_transformers
import torch

from bert_jax.config import Config, ModernBertConfig, RerankingConfig
from bert_jax.finetuning.finetune import finetune
from bert_jax.inference.predict import predictions
from bert_jax.interop import huggingface
from bert_jax.interop.export import export
from bert_jax.interop.load import load_embedder, load_model
from bert_jax.tasks import classification, reranking
from bert_jax.tasks.regression import IDENTITY, SIGMOID, cross_encoder
from bert_jax.training.network import Network
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from tests.finetuning.test_embeddings import PAIRS
from tests.finetuning.test_finetune import config_of, encoder  # noqa: F401 a fixture
from tests.helpers.configs import replace
from tests.helpers.embeddings import shapes
from tests.helpers.folders import write_folder


@pytest.fixture
def groups(encoder: Path, tmp_path: Path) -> Config:  # noqa: F811
    others = [other for _, other in PAIRS]
    rows = [
        {"anchor": one, "positive": other, "negative": [others[n - 1], others[n - 2]][: 1 + n % 2]}
        for n, (one, other) in enumerate(PAIRS)
    ]
    for name, times in (("train", 8), ("validation", 1)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * times))
    return config_of(
        "reranking",
        encoder,
        tmp_path / "train.jsonl",
        validation=str(tmp_path / "validation.jsonl"),
        epochs=15.0,
        sequence_length=32,
    )


@pytest.mark.long
def test_groups_are_learned_by_heart(groups: Config, tmp_path: Path):
    """And the exported folder is one of CrossEncoder, with the same scores."""
    (result,) = finetune(groups, workdir=tmp_path / "run")
    assert result.scores["mrr"] == result.scores["accuracy"] == 1.0
    export(tmp_path / "run", out=tmp_path / "out")
    lines = [json.dumps({"anchor": one, "positive": other}).encode() for one, other in PAIRS]
    asked = {"file": None, "lines": lines, "batch_size": 4, "top": 1}
    ours, again = (
        [answer["score"] for answer in predictions(tmp_path / name, **asked)] for name in ("run", "out")
    )
    np.testing.assert_allclose(ours, again, atol=1e-5)
    for name in ("run", "out"):
        with pytest.raises(
            UserError, match=f"{name} is a BertForSequenceClassification, for reranking and not"
        ):
            load_embedder(tmp_path / name)
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "out"), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_modernbert_scores_pairs_as_their_cross_encoder_does(
    config: Config, tmp_path: Path, pooling: Literal["cls", "mean"]
):
    model = ModernBertConfig(**shapes(config), classifier_pooling=pooling)
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    folder = write_folder(tmp_path / "model", Network(model, reranking, RerankingConfig()), words)
    pairs = [(one, other) for one, _ in PAIRS for _, other in PAIRS[:3]]
    lines = [json.dumps({"anchor": one, "positive": other}).encode() for one, other in pairs]
    ours = [answer["score"] for answer in predictions(folder, file=None, lines=lines, batch_size=4, top=1)]
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(pairs)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(ours) > 0.01


@pytest.mark.long
@pytest.mark.parametrize("activation", [SIGMOID, IDENTITY])
@pytest.mark.parametrize("version", [3, 5, 6])
def test_their_cross_encoders_are_read_as_they_save_them(
    config: Config, tmp_path: Path, version: int, activation: str
):
    """Before version 4 a field of its own has the activation; version 6 has files beside config.json, as
    models for vectors have."""
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    folder = write_folder(tmp_path / "model", Network(config.model, reranking, RerankingConfig()), words)
    fields = json.loads((folder / "config.json").read_text())
    del fields["sentence_transformers"]
    if version == 3:
        fields["sbert_ce_default_activation_function"] = activation
    elif version == 5:
        fields["sentence_transformers"] = {"activation_fn": activation, "version": "5.1.0"}
    (folder / "config.json").write_text(json.dumps(fields))
    function, kind = {
        SIGMOID: (torch.nn.Sigmoid, "reranking"),
        IDENTITY: (torch.nn.Identity, "regression"),
    }[activation]
    asked = {"activation_fn": function()} if version == 6 else {}
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu", **asked)
    if version == 6:
        folder = tmp_path / "theirs"
        theirs.save(str(folder))
        assert (folder / "modules.json").exists()
        assert "sentence_transformers" not in json.loads((folder / "config.json").read_text())
    lines = [json.dumps({"anchor": one, "positive": other}).encode() for one, other in PAIRS]
    ours = [answer["score"] for answer in predictions(folder, file=None, lines=lines, batch_size=4, top=1)]
    np.testing.assert_allclose(ours, theirs.predict(PAIRS), atol=1e-5)
    what = "CrossEncoder" if version == 6 else f"BertForSequenceClassification, for {kind}"
    with pytest.raises(UserError, match=f"is a {what}.*: use bert-jax predict$"):
        load_embedder(folder)


def test_a_cross_encoder_with_other_scores_is_refused(config: Config):
    fields = huggingface.to_config(Network(config.model, reranking, RerankingConfig()))
    with pytest.raises(UserError, match=r"CrossEncoder are torch\.nn\.Tanh of the logit; known are"):
        huggingface.from_config(fields | cross_encoder("torch.nn.Tanh"))


def test_a_cross_encoder_with_a_prompt_is_refused(config: Config, tmp_path: Path):
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    folder = write_folder(tmp_path / "model", Network(config.model, reranking, RerankingConfig()), words)
    use = {"model_type": "CrossEncoder", "prompts": {"topic": "t: "}, "default_prompt_name": "topic"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(use))
    with pytest.raises(UserError, match="default_prompt_name 'topic'; a CrossEncoder has no prompts here"):
        load_model(folder)


def test_a_cross_encoder_of_several_labels_is_a_classifier(config: Config):
    fields = huggingface.to_config(Network(config.model, reranking, RerankingConfig()))
    assert huggingface.from_config(fields).objective is reranking
    fields |= {"id2label": {"0": "no", "1": "yes"}}
    assert huggingface.from_config(fields).objective is classification


def test_a_group_without_a_negative_is_refused(groups: Config, tmp_path: Path):
    (tmp_path / "alone.jsonl").write_text('{"anchor": "a", "positive": "b"}\n')
    with pytest.raises(UserError, match=r"alone\.jsonl line 1 has no negative to tell the positive from"):
        finetune(replace(groups, task__train=str(tmp_path / "alone.jsonl")), workdir=tmp_path / "run")
