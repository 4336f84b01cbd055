"""The modern encoder from rows to folders of Transformers: trained, resumed, cut over a mesh, fine-tuned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import ClassificationConfig as Classification
from bert_jax.config import Config, InitConfig, MlmConfig, ModelConfig, ModernBertConfig, delta
from bert_jax.finetuning.finetune import finetune
from bert_jax.inference.fill_mask import token_logits
from bert_jax.inference.predict import predictions
from bert_jax.interop.export import export
from bert_jax.interop.load import load_model
from bert_jax.run.pretrain import pretrain
from data_pipeline.errors import UserError
from tests.helpers.configs import recipe_of, replace
from tests.helpers.runs import assert_identical, assert_near, finish, start_several

MODEL = ModernBertConfig(
    vocab_size=700,
    hidden_size=32,
    num_hidden_layers=5,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    local_attention=8,
    attention_output_dropout=0.1,
)


@pytest.fixture(scope="module")
def modern(config: Config) -> Config:
    """Four steps on packed rows, with output dropout, StableAdamW and windows that are shorter than rows."""
    return replace(
        config,
        model=MODEL,
        objective=MlmConfig(),
        optimizer__name="stable_adamw",
        optimizer__clip_norm=None,
        optimizer__warmup_steps=1,
        train__steps=4,
        train__microbatches=1,
    )


@pytest.fixture(scope="module")
def run(modern: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("modern") / "run"
    assert pretrain(modern, workdir=workdir)
    return workdir


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modern") / "exported"
    export(run, out=folder)
    return folder


@pytest.mark.long
def test_it_resumes_bit_for_bit(modern: Config, run: Path, tmp_path: Path):
    for stop in 1, 3, None:
        pretrain(replace(modern, train__stop_at=stop), workdir=tmp_path / "run")
    assert_identical(tmp_path / "run", run)


@pytest.mark.slow
def test_two_processes_and_other_axes_train_the_same(modern: Config, run: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(recipe_of(modern))
    flags = ("--mesh.fsdp", "2", "--mesh.tensor", "2")
    for process in start_several(recipe, tmp_path / "run", *flags, processes=2, devices=2):
        finish(process)
    assert_near(tmp_path / "run", run, atol=2e-6)


@pytest.mark.long
def test_what_is_exported_fills_in_the_same_words_in_transformers(exported: Path):
    network, params, _ = load_model(exported)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(exported, output_loading_info=True)
    assert type(theirs) is transformers.ModernBertForMaskedLM
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    text = f"Return the {tokenizer.mask_token} of the object."
    ids = np.array([tokenizer(text)["input_ids"]], np.int32)
    batch = {
        "token_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1], dtype=np.int32)[None],
        "token_type_ids": np.zeros_like(ids),
        "mlm_positions": np.arange(ids.shape[1], dtype=np.int32)[None],
    }
    with torch.no_grad():
        expected = theirs.eval()(input_ids=torch.tensor(ids).long()).logits[0].numpy()
    assert np.abs(np.asarray(token_logits(network, params, batch))[:, :700] - expected).max() <= 2e-5


def test_the_exported_config_has_the_special_tokens_of_the_tokenizer(exported: Path):
    fields = json.loads((exported / "config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    expected = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    assert {name: fields[name] for name in expected} == expected


@pytest.mark.long
def test_it_is_fine_tuned_and_predicts(exported: Path, tmp_path: Path):
    texts = [("the value of the object", "value"), ("a name of a class", "name")] * 8
    file = tmp_path / "texts.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in texts))
    config = Config(
        model=ModelConfig(dtype="float32"),
        init=InitConfig(source=str(exported)),
        task=Classification(
            train=str(file), validation=str(file), text="text", sequence_length=32, epochs=20
        ),
    )
    config = delta(config, train={"global_batch_size": 16}, optimizer={"learning_rate": 3e-3})
    results = finetune(config, workdir=tmp_path / "run")
    assert results is not None
    export(tmp_path / "run", out=tmp_path / "classifier")
    said = list(predictions(tmp_path / "classifier", file=str(file), lines=[], batch_size=8, top=1))
    assert [prediction["label"] for prediction in said] == [label for _, label in texts]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "classifier")
    with torch.no_grad():
        inputs = tokenizer([text for text, _ in texts], padding=True, return_tensors="pt")
        scores = theirs(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.softmax(dim=-1)
    for row, prediction in zip(scores.tolist(), said, strict=True):
        assert row == pytest.approx(list(prediction["scores"].values()), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__sequence_length": 72},
            "data.sequence_length 72 is longer than model.max_position",
        ),
        (
            {"data__sequence_length": 72, "model": ModelConfig(dtype="float32")},
            "data.sequence_length is 72, but the model of init.source .* has 64 positions",
        ),
        ({"data__input_format": "next_sentence", "objective": None}, "modernbert has no next-sentence"),
    ],
)
def test_rows_that_it_cannot_read_are_refused(
    modern: Config, exported: Path, tmp_path: Path, changes: dict, message: str
):
    with pytest.raises(UserError, match=message):
        pretrain(replace(modern, init__source=str(exported), **changes), workdir=tmp_path / "run")


def test_a_folder_of_another_family_is_named(modern: Config, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="are of a bert, not of a modernbert"):
        pretrain(replace(modern, init__source=str(tmp_path)), workdir=tmp_path / "run")
