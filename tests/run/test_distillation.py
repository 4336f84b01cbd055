"""Distillation by the command line: a teacher is trained, a student learns from it and goes out alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import transformers

from bert_jax.cli import main as cli
from bert_jax.config import BertConfig, Config, DistillationConfig, MlmConfig, TokenizerConfig
from bert_jax.inference.fill_mask import fill_mask
from bert_jax.interop.load import load_workdir
from bert_jax.run.pretrain import check, pretrain
from bert_jax.workdir.run_files import load_spec
from data_pipeline.errors import UserError
from data_pipeline.prepare import prepare
from tests.helpers.configs import recipe_of, replace
from tests.helpers.runs import assert_identical, metrics, state

EVERYTHING = {"hidden_weight": 1.0, "relations_weight": 1.0}


class Runs(NamedTuple):
    teacher: Path
    """Its workdir."""
    exported: Path
    """The same model as a folder."""
    config: Config
    """Of a student, but for its teacher."""

    def student(self, **changes: object) -> Config:
        return replace(self.config, **changes)


@pytest.fixture(scope="module")
def runs(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A teacher of four layers, and a config for a student of two."""
    folder = tmp_path_factory.mktemp("teachers")
    config = replace(
        config,
        train__steps=4,
        train__eval_every=4,
        train__eval_batches=1,
        optimizer__warmup_steps=1,
        checkpoint__every=2,
    )
    teacher = replace(config, objective=MlmConfig(), model__num_hidden_layers=4)
    assert pretrain(teacher, workdir=folder / "teacher")
    assert cli.run(["export", "--workdir", f"{folder}/teacher", "--out", f"{folder}/exported"]) == 0
    objective = DistillationConfig(teacher=str(folder / "teacher"), **EVERYTHING)
    return Runs(folder / "teacher", folder / "exported", replace(config, objective=objective))


@pytest.mark.long
def test_from_text_to_transformers(runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture):
    """From a workdir and from an exported folder, which lacks rows that are no pieces: the same student."""
    students = []
    for source in (runs.teacher, runs.exported):
        recipe, workdir = tmp_path / f"{source.name}.py", tmp_path / f"of-{source.name}"
        changes: dict[str, Any] = {"objective__teacher": str(source), "data__dir": str(tmp_path / "data")}
        recipe.write_text(recipe_of(runs.student(**changes)))
        if not students:
            assert cli.run(["prepare", str(recipe)]) == 0
        start = ["--init.source", str(source), "--init.layers", "0", "3"]
        assert cli.run(["pretrain", str(recipe), "--workdir", str(workdir), *start]) == 0
        assert cli.run(["evaluate", str(recipe), "--workdir", str(workdir), *start]) == 0
        students.append(workdir)
    printed = capfd.readouterr().out
    names = {"loss", "mlm_loss", "soft_loss", "hidden_loss", "relations_loss", "mlm_accuracy", "unigram_loss"}
    assert names <= {line.split()[0] for line in printed.splitlines() if line}
    assert metrics(students[0]) == metrics(students[1])
    one, other = map(state, students)
    table = ".params['encoder']['embeddings']['word']"
    one[table], other[table] = one[table][:700], other[table][:700]
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []

    out = tmp_path / "out"
    assert cli.run(["export", "--workdir", str(students[0]), "--out", str(out)]) == 0
    assert f"Distilled from: `{runs.teacher}`" in (out / "README.md").read_text()
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert type(theirs).__name__ == "BertForMaskedLM"
    assert theirs.config.num_hidden_layers == 2
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert [*json.loads((out / "config.json").read_text())["architectures"]] == ["BertForMaskedLM"]
    guesses = [fill_mask(folder, "the [MASK] of it")[0] for folder in (students[0], out)]
    assert [guess.word for guess in guesses[0]] == [guess.word for guess in guesses[1]]
    spec, params, _ = load_workdir(students[0])
    assert params["objective"].keys() == {"mlm"}
    assert spec.network.teacher is None
    table = np.asarray(params["encoder"]["embeddings"]["word"])[:700]
    np.testing.assert_array_equal(table, theirs.get_input_embeddings().weight.detach().numpy())


@pytest.mark.long
def test_what_the_teacher_is_is_written_down(runs: Runs, tmp_path: Path):
    """It has no dropout, and the best checkpoint is judged by the whole loss."""
    assert pretrain(runs.student(train__stop_at=2), workdir=tmp_path / "run")
    spec = load_spec(tmp_path / "run")
    teacher = spec.network.teacher
    assert teacher is not None
    assert (teacher.model.num_hidden_layers, teacher.model.hidden_size) == (4, 32)
    assert isinstance(teacher.model, BertConfig)
    assert teacher.model.hidden_dropout_prob == teacher.model.attention_probs_dropout_prob == 0
    assert spec.best.name == "loss"


@pytest.mark.long
def test_a_run_that_stopped_ends_with_the_same_bits(runs: Runs, tmp_path: Path):
    """Unrolled, with an average of the weights and the teacher moved to another place."""
    config = runs.student(model__scan_unroll=2, optimizer__ema_decay=0.9)
    assert pretrain(config, workdir=tmp_path / "at once")
    assert pretrain(replace(config, train__stop_at=3), workdir=tmp_path / "run")
    moved = shutil.copytree(runs.teacher, tmp_path / "moved")
    assert pretrain(replace(config, objective__teacher=str(moved)), workdir=tmp_path / "run")
    assert_identical(tmp_path / "run", tmp_path / "at once")
    assert "ema_soft_loss" in metrics(tmp_path / "run", "validation")[-1]


@pytest.mark.long
def test_another_teacher_under_the_same_name_is_refused(runs: Runs, config: Config, tmp_path: Path):
    folder = shutil.copytree(runs.exported, tmp_path / "teacher")
    student = runs.student(objective__teacher=str(folder))
    assert pretrain(replace(student, train__stop_at=2), workdir=tmp_path / "run")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"another run: there the digest of objective\.teacher's weights"):
        pretrain(student, workdir=tmp_path / "run")


# Bad input: a line, and nothing is written


def other_words(runs: Runs, folder: Path) -> Config:
    """A dataset of other pieces, as many."""
    data = dataclasses.replace(
        runs.config.data,
        dir=str(folder / "data"),
        tokenizer=TokenizerConfig(vocab_size=700, lowercase=False),
    )
    prepare(data)
    return runs.student(data=data)


def headless(runs: Runs, folder: Path) -> Config:
    """A teacher that is an encoder alone."""
    bare = shutil.copytree(runs.exported, folder / "bare")
    transformers.BertModel.from_pretrained(bare, add_pooling_layer=False).save_pretrained(bare)
    return runs.student(objective__teacher=str(bare))


REFUSED = {
    r"the tokenizer of data\.dir .* as objective\.teacher .* has: prepare the data": other_words,
    r"objective\.teacher .*nowhere does not exist": lambda runs, folder: runs.student(
        objective__teacher=str(folder / "nowhere")
    ),
    "has no config.json": lambda runs, folder: runs.student(objective__teacher=str(folder)),
    r"objective\.teacher is not given": lambda runs, folder: runs.student(objective__teacher=None),
    r"objective\.teacher_layer is 4, but .* has the layers 0 to 3": lambda runs, folder: runs.student(
        objective__teacher_layer=4
    ),
    r"has a vocabulary of 700 pieces, but model\.vocab_size is 800": lambda runs, folder: runs.student(
        model__vocab_size=800
    ),
    r"init\.layers has 4, but the source has the layers 0 to 3": lambda runs, folder: runs.student(
        init__source=str(runs.teacher), init__layers=(0, 4)
    ),
    r"init\.layers is for a run that goes on from another one": lambda runs, folder: runs.student(
        init__layers=(0, 3)
    ),
    r"has no masked-LM head, whose predictions objective\.soft_weight 1\.0 is for": headless,
}


@pytest.mark.long
@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_said_in_a_line(runs: Runs, tmp_path: Path, message: str):
    config = REFUSED[message](runs, tmp_path)
    with pytest.raises((UserError, FileNotFoundError), match=message) as caught:
        pretrain(config, workdir=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.long
def test_an_encoder_alone_is_enough_for_relations(runs: Runs, tmp_path: Path):
    config = headless(runs, tmp_path)
    objective = DistillationConfig(
        teacher=config.objective.teacher, mlm_weight=0.0, soft_weight=0.0, relations_weight=1.0
    )
    config = replace(config, objective=objective, train__stop_at=2)
    check(config)
    assert pretrain(config, workdir=tmp_path / "run")
    assert metrics(tmp_path / "run")[-1]["loss"] == metrics(tmp_path / "run")[-1]["relations_loss"]
