"""Folders with a trained model, as they are found: older, in several files, without a head, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import torch
import transformers

from bert_jax.config import Config
from bert_jax.inference.fill_mask import fill_mask
from bert_jax.interop import huggingface
from bert_jax.interop.export import export, export_every
from bert_jax.interop.load import load_model, load_workdir
from bert_jax.objectives import mlm
from bert_jax.ops.attention import cudnn, xla
from bert_jax.parallel.platform import Platform
from bert_jax.run.pretrain import pretrain
from bert_jax.training.step import init_state
from bert_jax.workdir import run_files
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.progress import Progress
from data_pipeline.errors import UserError
from tests.helpers.configs import replace, spec_of

TEXT = "the [MASK] of the object"


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir of two steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert pretrain(replace(config, train__steps=2, optimizer__warmup_steps=1), workdir=workdir)
    return workdir


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    export(run, out=tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def classifier(folder_of: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a model for labels, to be changed."""
    return shutil.copytree(folder_of("classification"), tmp_path / "classifier")


def edit(file: Path, change: Callable[[dict], object]) -> None:
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


@pytest.mark.long
def test_the_names_of_2018_are_understood(exported: Path):
    """The published bert-base-uncased has gamma and beta, where Transformers writes weight and bias."""
    expected = fill_mask(exported, TEXT)
    file = exported / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in safetensors.numpy.load_file(file).items()
    }
    assert any(name.endswith("gamma") for name in renamed)
    safetensors.numpy.save_file(renamed, file)
    assert fill_mask(exported, TEXT) == expected


@pytest.mark.long
def test_weights_may_have_more_than_the_class_that_their_config_names(exported: Path):
    """As the published bert-base-uncased: a BertForMaskedLM that has a pooler and a next-sentence head."""
    expected = fill_mask(exported, TEXT)
    names = safetensors.numpy.load_file(exported / "model.safetensors").keys()
    assert {"cls.seq_relationship.weight", "bert.pooler.dense.bias"} < names
    edit(exported / "config.json", lambda fields: fields.update(architectures=["BertForMaskedLM"]))
    network, params, _ = load_model(exported)
    assert network.objective is mlm
    assert params["objective"].keys() == {"mlm"}
    assert fill_mask(exported, TEXT) == expected


def test_a_model_for_words_only(run: Path, exported: Path, tmp_path: Path):
    """`export --masked-lm`, and what Transformers makes of it and saves: both open, and say the same."""
    export(run, out=tmp_path / "words", masked_lm=True)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "words", output_loading_info=True
    )
    assert type(theirs) is transformers.BertForMaskedLM
    assert not any(info.values()), info
    shutil.copytree(tmp_path / "words", tmp_path / "again")
    theirs.save_pretrained(tmp_path / "again")
    for folder in (tmp_path / "words", tmp_path / "again"):
        assert fill_mask(folder, TEXT) == fill_mask(exported, TEXT)


def test_a_model_without_a_head_for_words_is_refused(exported: Path):
    file = exported / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({n: a for n, a in tensors.items() if not n.startswith("cls.")}, file)
    with pytest.raises(ValueError, match=r"no tensor cls\.predictions"):
        load_model(exported)


def test_weights_in_several_files(exported: Path):
    expected = fill_mask(exported, TEXT)
    theirs = transformers.BertForPreTraining.from_pretrained(exported)
    (exported / "model.safetensors").unlink()
    theirs.save_pretrained(exported, max_shard_size="20KB")
    assert len(list(exported.glob("*.safetensors"))) > 2
    assert fill_mask(exported, TEXT) == expected
    next(exported.glob("*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model-.*, which model.safetensors.index.json names"):
        load_model(exported)


@pytest.mark.parametrize("name", ["../run/secret.safetensors", "/etc/passwd", "", 7])
def test_an_index_does_not_lead_out_of_its_folder(exported: Path, name: object):
    (exported / "model.safetensors").rename(exported / "model-00001-of-00001.safetensors")
    (exported / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="as a file of weights"):
        load_model(exported)


def test_a_tokenizer_that_was_saved_with_padding_and_a_limit(exported: Path):
    """Those were for someone's batches: a text alone has no padding, and is not cut."""
    expected = fill_mask(exported, TEXT)
    file = exported / "tokenizer.json"
    saved = tokenizers.Tokenizer.from_file(str(file))
    saved.enable_padding(length=40)
    saved.enable_truncation(4)
    saved.save(str(file))
    assert fill_mask(exported, TEXT) == expected


def test_a_run_with_a_kernel_for_a_chip_opens_without_one(config: Config, tmp_path: Path):
    """Kernels want the chip, and rows of the training's shape: a text alone has neither."""
    asked = replace(
        config,
        model__attention_probs_dropout_prob=0.0,
        model__attention="cudnn",
        model__dtype="bfloat16",
        data__max_sequences_per_row=1,
    )
    spec = spec_of(asked, platform=Platform("cuda", 9.0))
    assert spec.kernels.whole is cudnn
    run_files.write(spec, tmp_path)
    shutil.copytree(Path(config.data.dir) / "tokenizer", tmp_path / "tokenizer")
    with Checkpoints(tmp_path, spec) as checkpoints:
        checkpoints.save(2, init_state(spec)._replace(step=np.asarray(2, np.int32)), Progress())
    assert load_workdir(tmp_path)[0].kernels.whole is xla
    assert fill_mask(tmp_path, TEXT)


def spoil_a_number(folder: Path) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["bert.pooler.dense.bias"][3] = np.nan
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "only a pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "is a pickle, which could run code: have Transformers save it again",
    ),
    "a config that is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json is not an object of JSON",
    ),
    "half a config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "a class that is a number": (
        lambda folder: edit(folder / "config.json", lambda f: f.update(architectures=[5])),
        r"architectures \[5\]; known are names of classes",
    ),
    "an activation that is a list": (
        lambda folder: edit(folder / "config.json", lambda f: f.update(hidden_act=[])),
        r"config\.json does not fit",
    ),
    "relative positions": (
        lambda folder: edit(
            folder / "config.json", lambda f: f.update(position_embedding_type="relative_key")
        ),
        "position_embedding_type 'relative_key'",
    ),
    "half a tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        r"tokenizer\.json is damaged",
    ),
    "embeddings of another vocabulary": (
        lambda folder: edit(folder / "config.json", lambda f: f.update(vocab_size=690)),
        r"word_embeddings\.weight has shape \(700, 32\), but \(690, 32\) is what config\.json gives",
    ),
    "numbers that are none": (spoil_a_number, r"pooler\.dense\.bias has numbers that are not finite"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_opened_is_told_in_a_line(exported: Path, name: str):
    spoil, message = DAMAGED[name]
    spoil(exported)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        load_model(exported)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {"first": "no"}}, "id2label {'first': 'no'}, which does not number labels"),
        ({"task_specific_params": {"bert-jax": {"text": 3}}}, r"that do not fit: task\.text is 3"),
        ({"task_specific_params": {"bert-jax": {"colour": "red"}}}, "that do not fit: .*colour"),
        ({"task_specific_params": {"bert-jax": 3}}, "task_specific_params that do not fit"),
        ({"task_specific_params": ["bert-jax"]}, "task_specific_params that do not fit"),
        (
            {"task_specific_params": {"bert-jax": {"sequence_length": 512}}},
            "that do not fit: sequence_length 512, but 64 positions",
        ),
    ],
    ids=[
        "labels without numbers",
        "a wrong type",
        "an unknown field",
        "a number",
        "a list",
        "rows that are longer than the positions",
    ],
)
def test_a_task_of_something_else_is_told_in_a_line(classifier: Path, fields: dict, message: str):
    edit(classifier / "config.json", lambda found: found.update(fields))
    with pytest.raises(UserError, match=message) as refused:
        load_model(classifier)
    assert "\n" not in str(refused.value)


def test_half_the_tokenizers_settings_are_told_in_a_line(classifier: Path):
    """They say how long the rows of a task are."""
    (classifier / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not JSON") as refused:
        load_model(classifier)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["classification", "question_answering"])
def test_how_long_rows_are_is_the_tokenizers_word_if_it_has_one(
    folder_of: Callable[..., Path], tmp_path: Path, kind: str
):
    """What windows of a context share, where it is not noted, is a quarter of it."""
    folder = shutil.copytree(folder_of(kind), tmp_path / "folder")
    for told, length in ((32, 32), (None, 64), (int(1e30), 64)):
        edit(folder / "tokenizer_config.json", lambda fields, told=told: fields.update(model_max_length=told))
        settings = load_model(folder).network.settings
        assert settings.sequence_length == length
        assert getattr(settings, "stride", length // 4) == length // 4


def test_a_run_without_a_checkpoint_is_none(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/2")
    for use in (load_model, load_workdir, lambda workdir: export_every(workdir, out=tmp_path / "out")):
        with pytest.raises(FileNotFoundError, match="checkpoint"):
            use(tmp_path / "run")


def test_the_card_of_an_export_has_scores_and_nothing_else_in_its_table(exported: Path):
    table = (exported / "README.md").read_text().split("| validation | |\n|---|---|\n")[1].split("\n\n")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines()]
    assert names == ["loss", "mlm_accuracy", "mlm_loss", "nsp_accuracy", "nsp_loss"]


def test_the_weights_are_those_of_the_run(run: Path, exported: Path):
    spec, params, _ = load_workdir(run)
    theirs = transformers.BertForPreTraining.from_pretrained(exported).state_dict()
    for name, array in huggingface.to_tensors(spec.network, jax.device_get(params)).items():
        np.testing.assert_array_equal(theirs[name], torch.tensor(array))
