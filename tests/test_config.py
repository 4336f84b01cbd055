"""Configs: what cannot work is refused by name; what is written is read back."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from bert_jax.config import (
    Config,
    DataConfig,
    MaskingConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)
from bert_jax.config_files import differences, from_json, load, to_json
from data_pipeline.config import evaluation_masking
from tests.conftest import replace

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_how_to_run_it(path: Path):
    config = load(path)
    assert from_json(to_json(config)) == config
    verb = "pretrain" if config.model.head == "pretraining" else "finetune"
    assert re.search(rf"bert-jax {verb} configs/{path.name} (\\\n|.)*--workdir", path.read_text())


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: ModelConfig(hidden_size=100, num_attention_heads=3), "model.hidden_size"),
        (lambda: ModelConfig(num_hidden_layers=0), "model.num_hidden_layers"),
        (lambda: ModelConfig(hidden_dropout_prob=1.0), "model.hidden_dropout_prob"),
        (lambda: TrainConfig(global_batch_size=30, microbatches=4), "train.global_batch_size"),
        (lambda: TrainConfig(steps=10, stop_at=11), "train.stop_at"),
        (lambda: OptimizerConfig(learning_rate=0), "optimizer.learning_rate"),
        (lambda: OptimizerConfig(b2=1.0), "optimizer.b2"),
        (lambda: MeshConfig(data=0), "mesh.data"),
        (lambda: TrainConfig(eval_batches=0), "train.eval_batches"),
        (lambda: TrainConfig(seed=-1), "train.seed"),
        (lambda: DataConfig(seed=-1), "data.seed"),
        (lambda: MaskingConfig(rate=1.5), "data.masking.rate"),
        (lambda: MaskingConfig(strategy="words"), "data.masking.strategy"),
        (lambda: MaskingConfig(final_rate=0.0, rate_steps=10), "data.masking.final_rate"),
        (lambda: MaskingConfig(final_rate=0.3), "data.masking.rate_steps is 0; with"),
        (lambda: MaskingConfig(rate_steps=10), "data.masking.rate_steps is 10; without"),
        (lambda: MaskingConfig(mask_fraction=0.9, random_fraction=0.2), "data.masking.mask_fraction"),
        (lambda: TokenizerConfig(vocab_size=5), "data.tokenizer.vocab_size"),
        (lambda: DataConfig(source=("files:a", 1)), "data.source"),
        (lambda: DataConfig(weights=[1.0]), "data.weights"),
        (lambda: DataConfig(sequence_length=16), "data.masking.max_predictions"),
        (lambda: DataConfig(sequence_length=512), "data.masking.max_predictions is 20, too few"),
        (
            lambda: DataConfig(masking=MaskingConfig(final_rate=0.3, rate_steps=10)),
            "data.masking.max_predictions is 20, too few for data.masking.final_rate 0.3",
        ),
        (
            lambda: DataConfig(masking=MaskingConfig(rate=0.3, final_rate=0.15, rate_steps=10)),
            "too few for data.masking.rate 0.3 of data.sequence_length 128: set it to 38 or more",
        ),
        (lambda: DataConfig(max_sequences_per_row=100), "data.max_sequences_per_row"),
        (lambda: DataConfig(validation_fraction=1.0), "data.validation_fraction"),
        (lambda: Config(model=ModelConfig(max_position_embeddings=127)), "model.max_position_embeddings"),
        (lambda: Config(model=ModelConfig(vocab_size=1000)), "data.tokenizer.vocab_size"),
        (lambda: Config(model=ModelConfig(type_vocab_size=1)), "model.type_vocab_size"),
        (lambda: Config(train=TrainConfig(steps=100)), "optimizer.warmup_steps"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(build, field):
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].update(hiden_size=3), "model has unknown or missing fields: hiden_size"),
        (lambda d: d["train"].pop("seed"), "train has unknown or missing fields: seed"),
        (lambda d: d["train"].update(steps="many"), "train.steps is 'many'"),
        (lambda d: d["train"].update(steps=1.5), "train.steps is 1.5"),
        (lambda d: d["train"].update(steps=True), "train.steps is True"),
        (lambda d: d["model"].update(dtype="float64"), "model.dtype is 'float64'"),
        (lambda d: d.update(data=3), "data is not an object"),
        (lambda d: d["model"].update(num_attention_heads=7), "model.hidden_size 768 is not divisible"),
    ],
)
def test_json_that_is_not_a_config_is_refused_by_name(change, message):
    fields = dataclasses.asdict(Config())
    change(fields)
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(fields))


HEAD = "from bert_jax.config import *\ndef get_config(): "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no function get_config"),
        ("def get_config(): return 3", "returns int, not bert_jax.config.Config"),
        (
            HEAD + "return Config(train=TrainConfig(steps=1e6))",
            r"train\.steps is 1000000\.0; it must be of type",
        ),
        (HEAD + "return Config(model=ModelConfig(dtype='float16'))", r"model\.dtype is 'float16'; .* one of"),
        (HEAD + "return Config(data=DataConfig(objective='nsp'))", r"data\.objective is 'nsp'"),
        (HEAD + "return Config(train=TrainConfig(steps='many'))", r"train\.steps is 'many'"),
        ("def get_config(): return undefined", "NameError: name 'undefined' is not defined"),
        ("from bert_jax.config import *\ndef get_config(): return ModelConfig(hiden_size=3)", "hiden_size"),
    ],
)
def test_a_config_file_that_fails_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert "mine.py" in str(error.value)


def test_a_missing_config_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
        load("nowhere.py")


def test_differences_name_each_field_that_is_not_free():
    one = Config()
    other = replace(one, optimizer__learning_rate=1.0, mesh__fsdp=2, train__stop_at=7)
    assert differences(one, one) == []
    assert differences(one, other, free=("mesh", "train.stop_at")) == [
        "optimizer.learning_rate is 0.0001, not 1.0"
    ]
    assert len(differences(one, other)) == 3


def test_validation_is_masked_as_in_the_paper_whatever_training_does():
    config = DataConfig(masking=MaskingConfig(strategy="span", rate=0.3, max_predictions=40))
    assert config.masking_of("train") == config.masking
    assert config.masking_of("validation") == evaluation_masking(128)
    assert dataclasses.asdict(evaluation_masking(128)) == {
        "strategy": "token",
        "rate": 0.15,
        "final_rate": None,
        "rate_steps": 0,
        "max_predictions": 19,
        "mask_fraction": 0.8,
        "random_fraction": 0.1,
    }
    assert [evaluation_masking(size).max_predictions for size in (8, 512, 4096)] == [1, 77, 614]


def test_the_vocabulary_is_padded_to_a_multiple_of_128():
    assert ModelConfig(vocab_size=30522).padded_vocab_size == 30592
    assert ModelConfig(vocab_size=4096).padded_vocab_size == 4096
