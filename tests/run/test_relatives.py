"""The relatives of BERT by the command line, from a folder of Transformers to a folder of Transformers."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.analysis.explain import explain
from bert_jax.cli import main as cli
from bert_jax.config import (
    Config,
    ElectraConfig,
    InitConfig,
    MlmConfig,
    ModelConfig,
    RobertaConfig,
    TokenizerConfig,
)
from bert_jax.finetuning.finetune import finetune
from bert_jax.inference.fill_mask import fill_mask
from bert_jax.inference.predict import predictions
from bert_jax.interop import huggingface
from bert_jax.interop.export import export
from bert_jax.interop.initialize import start_from
from bert_jax.interop.load import load_workdir
from bert_jax.interop.sentence_transformers import WITHOUT_POOLER
from bert_jax.interop.tiling import check_sizes, positions
from bert_jax.objectives import mlm
from bert_jax.run.pretrain import pretrain
from bert_jax.tasks import TASKS
from bert_jax.training.network import Network
from bert_jax.training.step import init_state
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from data_pipeline.prepare import prepare
from tests.finetuning.test_finetune import config_of, write_examples
from tests.helpers.configs import recipe_of, replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.steps import mesh_of, run
from tests.helpers.tokenizers import published

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


class Family(NamedTuple):
    words: str
    """The kind of its tokenizer."""
    prefix: str
    """Of its classes in Transformers."""
    fields: dict[str, Any]
    """Of its config.json, beside sizes, vocabulary and padding."""


FAMILIES = {
    "roberta": Family("roberta", "Roberta", {"type_vocab_size": 1, "max_position_embeddings": 66} | SIZES),
    "xlm-roberta": Family("xlm_roberta", "XLMRoberta", {"type_vocab_size": 1} | SIZES),
    "distilbert": Family(
        "wordpiece", "DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    ),
    "electra": Family("wordpiece", "Electra", {"embedding_size": 16} | SIZES),
}


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """source_of(family): a random model as Transformers saves it, with a tokenizer of its own."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            family, folder = FAMILIES[name], tmp_path_factory.mktemp("models") / name
            shutil.copytree(published(family.words), folder)
            words = tokenizer.load(folder)
            special = words.special_tokens
            ids = {"pad_token_id": special.pad, "bos_token_id": special.cls, "eos_token_id": special.sep}
            torch.manual_seed(0)
            kind = getattr(transformers, f"{family.prefix}ForMaskedLM")
            fields = ids | {"vocab_size": words.vocab_size} | family.fields
            kind(kind.config_class(**fields)).save_pretrained(folder)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="module")
def recipe_for(config: Config, source_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """recipe_for(family): the config of a few steps from that model; its packed rows are prepared."""

    def make(name: str) -> Config:
        source = source_of(name)
        data = dataclasses.replace(
            config.data,
            tokenizer=TokenizerConfig(vocab_file=str(source / "tokenizer.json")),
            dir=str(tmp_path_factory.mktemp(name) / "data"),
            input_format="full_sentences",
        )
        prepare(data)
        return replace(
            config,
            data=data,
            model=ModelConfig(dtype="float32"),
            init=InitConfig(source=str(source)),
            optimizer__warmup_steps=1,
            train__steps=3,
            train__eval_every=3,
            train__eval_batches=1,
        )

    return functools.cache(make)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in [*FAMILIES][1:])]
)
def test_from_transformers_to_transformers(name: str, recipe_for: Any, source_of: Any, tmp_path: Path, capfd):
    recipe, workdir, out = tmp_path / "recipe.py", str(tmp_path / "run"), tmp_path / "out"
    recipe.write_text(recipe_of(replace(recipe_for(name), data__dir=str(tmp_path / "data"))))
    assert cli.run(["prepare", str(recipe)]) == 0
    assert cli.run(["pretrain", str(recipe), "--workdir", workdir]) == 0
    assert cli.run(["evaluate", str(recipe), "--workdir", workdir]) == 0
    assert cli.run(["export", "--workdir", workdir, "--out", str(out)]) == 0

    source = source_of(name)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert type(theirs).__name__ == f"{FAMILIES[name].prefix}ForMaskedLM"
    assert not any(info.values()), info
    written, given = (json.loads((folder / "config.json").read_text()) for folder in (out, source))
    changed = {field for field in written.keys() & given.keys() if written[field] != given[field]}
    assert changed <= {"architectures", "summary_type"}
    own = {path.name for path in source.iterdir()} - {"config.json", "model.safetensors"}
    assert own <= {path.name for path in out.iterdir()}
    assert all((out / file).read_bytes() == (source / file).read_bytes() for file in own)

    words = tokenizer.load(out)
    text = f"the value of the {words.mask_token}. It is"
    capfd.readouterr()
    assert cli.run(["fill-mask", str(out), text]) == 0
    assert capfd.readouterr().out.strip()
    (guesses,) = fill_mask(out, text, top=3)
    ids = torch.tensor([words.huggingface.encode(text).ids])
    with torch.no_grad():
        logits = theirs.eval()(input_ids=ids).logits[ids == words.special_tokens.mask][0]
    expected = np.sort(logits.softmax(-1).numpy())[::-1][:3]
    np.testing.assert_allclose([guess.probability for guess in guesses], expected, rtol=1e-3)
    found = explain(out, text, steps=8)
    assert found.attentions.shape[:2] == (2, 4)
    np.testing.assert_allclose(found.attentions.sum(axis=-1), 1, rtol=1e-5)


QUICK = {("roberta", "classification"), ("distilbert", "token_classification")}
"""The other pairs are slow."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "task"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.slow)
        for name in FAMILIES
        for kind in (task.Config.kind for task in TASKS)
    ],
)
def test_it_is_fine_tuned_and_predicts(name: str, task: str, source_of: Any, tmp_path: Path):
    examples = write_examples(task, tmp_path / "examples")
    config = config_of(task, source_of(name), examples, epochs=1.0)
    (result,) = finetune(config, workdir=tmp_path / "run")
    export(tmp_path / "run", out=tmp_path / "out")
    one, other = (
        list(predictions(folder, file=str(examples), lines=[], batch_size=8, top=1))
        for folder in (tmp_path / "run", tmp_path / "out")
    )
    assert one == other
    assert result.scores
    suffix = next(found for found in TASKS if found.Config.kind == task).HUGGINGFACE_SUFFIX
    loader = getattr(transformers, f"AutoModel{suffix.removeprefix(huggingface.NO_HEAD)}")
    names = huggingface.load_network(tmp_path / "out").encoder.HUGGINGFACE
    how = WITHOUT_POOLER if names.has_pooler and suffix == huggingface.NO_HEAD else {}
    _, info = loader.from_pretrained(tmp_path / "out", output_loading_info=True, **how)
    assert not any(info.values()), info


# Meshes, layers, larger models


@pytest.fixture(scope="module")
def electra(config: Config) -> Config:
    """With embeddings that are projected, on the tiny dataset, without dropout."""
    sizes = SIZES | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = ElectraConfig(vocab_size=700, embedding_size=16, max_position_embeddings=64, **sizes)
    return replace(config, model=model, objective=MlmConfig(), train__microbatches=1)


@pytest.mark.long
def test_the_mesh_and_how_layers_are_compiled_change_no_loss(electra: Config):
    batches = read_batches(electra, 2)
    _, expected = run(electra, batches)
    for changes, mesh in (
        ({}, (2, 2, 2)),
        ({"model__scan_unroll": 2, "model__remat": "dots"}, (1, 1, 1)),
    ):
        _, found = run(replace(electra, **changes), batches, mesh)
        assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in expected], abs=1e-5)


def test_a_mesh_that_does_not_divide_the_embeddings_is_refused(electra: Config):
    odd = replace(electra, model__embedding_size=15)
    with pytest.raises(UserError, match=r"model\.embedding_size 15 is not divisible by mesh\.fsdp 2"):
        run(odd, read_batches(odd, 1), (1, 2, 1))


def test_more_positions_than_the_source_has_are_its_own_again():
    """But for those in front of the first one, which no token has."""
    assert positions(8, given=5, first=2).tolist() == [0, 1, 2, 3, 4, 2, 3, 4]
    assert positions(4, given=5, first=2).tolist() == [0, 1, 2, 3]


def test_longer_rows_and_a_larger_model_start_from_a_smaller_one(recipe_for: Any, source_of: Any):
    source, config = source_of("roberta"), recipe_for("roberta")
    theirs = huggingface.load(source)[1]["encoder"]["embeddings"]["position"]
    network = huggingface.load_network(source)
    larger = dataclasses.replace(
        network.model, hidden_size=64, num_attention_heads=8, max_position_embeddings=100
    )
    asked = replace(config, model=larger, init=InitConfig(source=str(source), tile=True))
    spec, mesh = spec_of(asked), mesh_of((1, 1, 1))
    with jax.set_mesh(mesh):
        found = np.asarray(
            start_from(source, spec, mesh, init_state(spec)).params["encoder"]["embeddings"]["position"]
        )
    assert (found[:66, 16:48] == theirs).all()
    assert (found[66:, 16:48] == theirs[2:36]).all()


def test_a_larger_model_projects_its_embeddings_where_the_smaller_one_does(electra: Config):
    small = electra.model
    check_sizes(small, dataclasses.replace(small, hidden_size=64, num_attention_heads=8))
    wide = dataclasses.replace(small, embedding_size=32)
    with pytest.raises(
        UserError, match=r"model\.embedding_size is 32; it must be 16, as the source projects"
    ):
        check_sizes(small, wide)
    with pytest.raises(UserError, match=r"must be 64, as the source does not project its embeddings"):
        check_sizes(wide, dataclasses.replace(wide, hidden_size=64, num_attention_heads=8))


# What cannot be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__sequence_length": 65}, "data.sequence_length 65 is longer than .* 66 less the first 2"),
        (
            {"data__sequence_length": 65, "model": ModelConfig(dtype="float32")},
            "data.sequence_length is 65, but the model of init.source .* has 64 positions",
        ),
        ({"data__input_format": "next_sentence"}, "roberta has no next-sentence head: use data.input_format"),
        (
            {"model__pad_token_id": 0},
            r"the padding 1, but model\.pad_token_id is 0: use the tokenizer of the model",
        ),
    ],
)
def test_what_a_roberta_cannot_do_is_one_line(
    recipe_for: Any, source_of: Any, changes: dict[str, Any], message: str, tmp_path: Path
):
    size = tokenizer.load(source_of("roberta")).vocab_size
    fields = SIZES | {"vocab_size": size, "max_position_embeddings": 66, "layer_norm_eps": 1e-12}
    config = replace(recipe_for("roberta"), model=RobertaConfig(**fields))
    with pytest.raises(UserError, match=message):
        pretrain(replace(config, **changes), workdir=tmp_path / "run")


@pytest.mark.long
def test_the_padding_of_the_tokenizer_is_that_of_the_model(config: Config, tmp_path: Path):
    model = RobertaConfig(vocab_size=700, max_position_embeddings=66, **SIZES)
    config = replace(config, model=model, objective=MlmConfig())
    with pytest.raises(
        UserError, match=r"the padding 0, but model\.pad_token_id is 1: .* --model\.pad-token-id 0"
    ):
        pretrain(config, workdir=tmp_path / "run")
    config = replace(
        config, model__pad_token_id=0, train__steps=2, train__eval_every=2, optimizer__warmup_steps=1
    )
    assert pretrain(config, workdir=tmp_path / "other")
    assert load_workdir(tmp_path / "other")[0].network == Network(config.model, mlm, mlm.Config())


def test_folders_that_are_no_source_are_one_line_each(recipe_for: Any, source_of: Any, tmp_path: Path):
    config = recipe_for("roberta")

    def refused(folder: Path, **changes: Any) -> str:
        asked = replace(config, init=InitConfig(source=str(folder)), **changes)
        with pytest.raises((UserError, FileNotFoundError)) as raised:
            pretrain(asked, workdir=tmp_path / "run")
        assert "\n" not in str(raised.value)
        return str(raised.value)

    for kind in "deberta-v2", "t5":
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        assert f"config.json is of a '{kind}' model; known are bert, modernbert, roberta" in refused(folder)
    assert "are of a electra, not of a roberta" in refused(
        source_of("electra"), model=RobertaConfig(max_position_embeddings=66, vocab_size=2000, **SIZES)
    )
    pickle = tmp_path / "pickle"
    shutil.copytree(source_of("roberta"), pickle)
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    assert "has no model.safetensors; pytorch_model.bin is a pickle, which could run" in refused(pickle)
