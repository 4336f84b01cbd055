"""Configs as JSON and as recipes: what is written is read back, and one that fails is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bert_jax.config import BertConfig, Config, MaskingConfig, delta, load_phases, load_recipe
from bert_jax.config.as_json import differences, to_json
from bert_jax.workdir.run_files import config_from_json
from data_pipeline.errors import UserError
from tests.helpers.configs import replace
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_how_to_run_it(path: Path):
    for config in load_phases(path).values():
        assert config_from_json(to_json(config)) == config
    verb = "pretrain" if config.task is None else "finetune"
    assert re.search(rf"bert-jax {verb} configs/{path.name} (\\\n|.)*--workdir", path.read_text())


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
        (
            lambda d: d["model"].update(model_type="gpt2"),
            "model.model_type is 'gpt2'; known are None, 'bert'",
        ),
        (lambda d: d["model"].pop("model_type"), "model has unknown or missing fields"),
        (lambda d: d.update(objective={"kind": "clm"}), "objective.kind is 'clm'; known are 'mlm_nsp', "),
        (lambda d: d.update(task={"kind": "classification"}), "task has unknown or missing fields"),
    ],
)
def test_json_that_is_not_a_config_is_refused_by_name(change, message):
    fields = json.loads(to_json(Config()))
    change(fields)
    with pytest.raises(ValueError, match=message):
        config_from_json(json.dumps(fields))


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
        (HEAD + "return Config(model=BertConfig(dtype='float16'))", r"model\.dtype is 'float16'; .* one of"),
        (HEAD + "return Config(data=DataConfig(input_format='nsp'))", r"data\.input_format is 'nsp'"),
        (HEAD + "return Config(train=TrainConfig(steps='many'))", r"train\.steps is 'many'"),
        ("def get_config(): return undefined", "NameError: name 'undefined' is not defined"),
        ("from bert_jax.config import *\ndef get_config(): return ModelConfig(hiden_size=3)", "hiden_size"),
    ],
)
def test_a_config_file_that_fails_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(path)
    assert "mine.py" in str(error.value)


def test_a_missing_config_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py"):
        load_recipe("nowhere.py")


def test_a_delta_changes_fields_of_sections_within_sections():
    base = Config()
    changed = delta(
        base,
        model={"hidden_size": 24},
        data={"sequence_length": 64, "masking": {"max_predictions": 10}},
        train={"seed": 5},
    )
    assert changed == replace(
        base,
        model__hidden_size=24,
        data__sequence_length=64,
        data__masking=MaskingConfig(max_predictions=10),
        train__seed=5,
    )
    assert type(changed.model) is BertConfig
    with pytest.raises(TypeError, match="hiden_size"):
        delta(base, model={"hiden_size": 24})
    with pytest.raises(UserError, match=r"train\.seed is 'x'"):
        delta(base, train={"seed": "x"})


def test_differences_name_each_field_that_is_not_free():
    one = Config()
    other = replace(one, optimizer__learning_rate=1.0, mesh__fsdp=2, train__stop_at=7)
    assert differences(one, one) == []
    assert differences(one, other, free=("mesh", "train.stop_at")) == [
        "optimizer.learning_rate is 0.0001, not 1.0"
    ]
    assert len(differences(one, other)) == 3
