"""GLUE: each task with its columns, its labels and its scores; the runs themselves are in test_finetune."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import pytest

from bert_jax.config import ClassificationConfig, Config, ModelConfig, RegressionConfig
from bert_jax.finetuning import glue
from bert_jax.finetuning.finetune import Result
from bert_jax.tasks import task_of
from tests.helpers.configs import replace

CONFIG = Config(model=ModelConfig(), task=ClassificationConfig())


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configs that were fine-tuned, which took no time; every score is a half."""
    configs: list[Config] = []

    def finetune(config: Config, *, workdir: Path, seeds: tuple[int, ...]) -> list[Result]:
        configs.append(config)
        scores = {metric.name: 0.5 for metric in task_of(config.task).metrics(config.task)}
        return [Result(seed, workdir, 1, scores) for seed in seeds]

    monkeypatch.setattr(glue, "finetune", finetune)
    return configs


@pytest.mark.parametrize("files", [Path("files"), None])
def test_every_score_of_the_table_is_one_that_scoring_returns(
    files: Path | None, tuned: list[Config], tmp_path: Path
):
    lines = glue.glue(CONFIG, workdir=tmp_path, tasks=[*glue.TASKS], seeds=(0,), files=files)
    assert lines is not None
    assert "| mrpc | f1 / accuracy | 50.0 ± 0.0 / 50.0 ± 0.0 |" in lines
    assert list(json.loads((tmp_path / "glue.json").read_text())) == [*glue.TASKS]


def test_a_task_is_judged_by_its_own_first_score_unless_another_is_asked_for(
    tuned: list[Config], tmp_path: Path
):
    tasks = ("cola", "sst2", "mrpc", "stsb")
    glue.glue(CONFIG, workdir=tmp_path, tasks=tasks, seeds=(0,), files=None)
    assert [config.checkpoint.best for config in tuned] == ["mcc", "accuracy", "f1", "pearson"]
    asked = replace(CONFIG, checkpoint__best="macro_f1")
    glue.glue(asked, workdir=tmp_path, tasks=("cola",), seeds=(0,), files=None)
    assert tuned[-1].checkpoint.best == "macro_f1"


def test_f1_is_that_of_glues_label_1(tuned: list[Config], tmp_path: Path):
    for files in (None, tmp_path):
        glue.glue(CONFIG, workdir=tmp_path, tasks=("mrpc", "qqp"), seeds=(0,), files=files)
    assert [config.task.labels[1] for config in tuned] == ["equivalent", "duplicate", "1", "1"]


def test_a_task_keeps_what_is_asked_of_the_training(tuned: list[Config], tmp_path: Path):
    """Also the one that is a regression."""
    asked = replace(CONFIG, task__epochs=2.0, task__sequence_length=64, task__dropout=0.2, train__seed=3)
    glue.glue(asked, workdir=tmp_path, tasks=("rte", "stsb"), seeds=(0,), files=tmp_path / "files")
    assert [type(config.task) for config in tuned] == [ClassificationConfig, RegressionConfig]
    for name, config in zip(("rte", "stsb"), tuned, strict=True):
        assert (config.task.epochs, config.task.sequence_length, config.task.dropout) == (2.0, 64, 0.2)
        assert (config.task.text, config.task.pair, config.task.label) == ("sentence1", "sentence2", "label")
        assert config.task.train == str(tmp_path / "files" / name / "train.tsv")
        assert config.train.seed == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train", "train.tsv"),
        ("validation", "dev.tsv"),
        ("text", "review"),
        ("pair", "answer"),
        ("label", "stars"),
        ("labels", ("0", "1")),
    ],
)
def test_what_a_task_of_glue_has_of_its_own_is_refused_by_name(
    name: str, value: object, tuned: list[Config], tmp_path: Path
):
    asked = replace(CONFIG, **{f"task__{name}": value})
    with pytest.raises(ValueError, match=rf"^task.{name} is {re.escape(repr(value))}, but each task of GLUE"):
        glue.glue(asked, workdir=tmp_path, tasks=("sst2",), seeds=(0,), files=None)
    assert tuned == []


def test_columns_and_labels_are_those_of_tfds():
    from tensorflow_datasets.text.glue import Glue

    theirs = {config.name: config for config in Glue.BUILDER_CONFIGS}
    for name, task in glue.TASKS.items():
        assert {task.text, task.pair} - {None} == set(theirs[name].text_features)
        if task.labels:
            assert list(task.labels) == theirs[name].label_classes


def test_one_process_writes_the_scores(tuned: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    glue.glue(CONFIG, workdir=tmp_path, tasks=("sst2",), seeds=(0,), files=None)
    assert not (tmp_path / "glue.json").exists()
