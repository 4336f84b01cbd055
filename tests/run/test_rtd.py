"""Replaced-token detection by the command line: from text to a discriminator and its generator, and on."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.analysis.scoring import score_workdir
from bert_jax.cli import main as cli
from bert_jax.config import Config, InitConfig, RtdConfig
from bert_jax.finetuning.finetune import finetune
from bert_jax.inference.fill_mask import fill_mask, token_logits
from bert_jax.interop import generator, huggingface
from bert_jax.interop.export import export
from bert_jax.interop.initialize import start_from
from bert_jax.interop.load import load_workdir
from bert_jax.ops.attention import PLAIN
from bert_jax.run.pretrain import pretrain
from bert_jax.training.network import encode, modules
from bert_jax.training.step import init_state
from bert_jax.workdir.run_files import load_spec
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from tests.finetuning.test_finetune import config_of, write_examples
from tests.helpers.configs import electra_of, recipe_of, replace, spec_of
from tests.helpers.runs import metrics
from tests.helpers.steps import mesh_of

CLASSES = {"": transformers.ElectraForPreTraining, "generator": transformers.ElectraForMaskedLM}


@pytest.fixture(scope="module")
def electra(config: Config) -> Config:
    """A few steps of real text, with disentangled embeddings, whose export is a sum."""
    return replace(
        config,
        model=electra_of(config.model),
        objective=RtdConfig(generator_size=0.5, embeddings="gradient_disentangled"),
        optimizer__warmup_steps=1,
        optimizer__learning_rate=5e-3,
        train__steps=6,
        train__eval_every=6,
        train__eval_batches=1,
    )


@pytest.fixture(scope="module")
def workdir(electra: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("electra") / "run"
    assert pretrain(electra, workdir=folder)
    return folder


@pytest.fixture(scope="module")
def out(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("electra") / "out"
    export(workdir, out=folder)
    return folder


def text_batch(words: Any, text: str) -> dict[str, np.ndarray]:
    ids = np.array([words.huggingface.encode(text).ids], np.int32)
    return {
        "token_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1], dtype=np.int32)[None],
        "token_type_ids": np.zeros_like(ids),
    }


def assert_transformers_agree(workdir: Path, out: Path) -> None:
    """Both models load with no tensor missing or left over, and give our logits."""
    spec, params, _ = load_workdir(workdir)
    batch = text_batch(tokenizer.load(out), "the value of the name is a list .")
    arguments = {"input_ids": torch.tensor(batch["token_ids"]).long()}
    for name, kind in CLASSES.items():
        theirs, info = kind.from_pretrained(out / name, output_loading_info=True)
        assert not any(info.values()), info
        if name:
            network, weights = generator.masked_lm(spec.network, params)
            positions = {"mlm_positions": batch["position_ids"]}
            found = token_logits(network, weights, batch | positions)[:, : network.model.vocab_size]
        else:
            network, weights = generator.apart(spec.network, params)
            hidden = encode(network, weights, batch, kernels=PLAIN)
            found = modules(network, weights).objective.discriminator(hidden)[0]
        with torch.no_grad():
            expected = theirs.eval()(**arguments).logits[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.long
def test_from_text_to_two_models_of_transformers(
    electra: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    recipe, folder, out = tmp_path / "recipe.py", str(tmp_path / "run"), tmp_path / "out"
    recipe.write_text(recipe_of(replace(electra, data__dir=str(tmp_path / "data"))))
    flags = ["--objective.embeddings", "shared"]
    assert cli.run(["prepare", str(recipe)]) == 0
    assert cli.run(["pretrain", str(recipe), "--workdir", folder, *flags]) == 0
    assert cli.run(["evaluate", str(recipe), "--workdir", folder, *flags]) == 0
    assert cli.run(["export", "--workdir", folder, "--out", str(out)]) == 0
    (line,) = metrics(Path(folder), "validation")
    assert line["loss"] == pytest.approx(line["mlm_loss"] + 50 * line["rtd_loss"], rel=1e-5)
    assert {"mlm_accuracy", "rtd_accuracy", "replaced_accuracy"} <= line.keys()
    assert_transformers_agree(Path(folder), out)

    words = tokenizer.load(out)
    assert tokenizer.load(out / "generator").pieces == words.pieces
    text = f"the {words.mask_token} of the name"
    guesses = [fill_mask(where, text, top=3) for where in (Path(folder), out, out / "generator")]
    assert guesses[0] == guesses[1] == guesses[2]
    capfd.readouterr()
    assert cli.run(["fill-mask", str(out), text]) == 0
    assert capfd.readouterr().out.strip()


@pytest.mark.long
def test_disentangled_embeddings_are_exported_as_sums(workdir: Path, out: Path):
    assert_transformers_agree(workdir, out)
    tables = [
        safetensors.numpy.load_file(out / name / "model.safetensors")[
            "electra.embeddings.word_embeddings.weight"
        ]
        for name in CLASSES
    ]
    assert not np.array_equal(*tables)


@pytest.mark.long
def test_the_generator_is_exported_alone_and_scored(workdir: Path, out: Path, tmp_path: Path):
    export(workdir, out=tmp_path / "alone", masked_lm=True)
    one, other = (
        safetensors.numpy.load_file(folder / "model.safetensors")
        for folder in (tmp_path / "alone", out / "generator")
    )
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    scores = score_workdir(load_spec(workdir), workdir=workdir, step=6, rows=2)
    (line,) = metrics(workdir, "validation")
    found = sum(b.loss * b.predictions for b in scores.buckets if b.predictions)
    assert found / sum(b.predictions for b in scores.buckets) == pytest.approx(line["mlm_loss"], rel=1e-3)


def test_a_discriminator_alone_says_no_words(out: Path, tmp_path: Path):
    shutil.copytree(out, tmp_path / "one", ignore=shutil.ignore_patterns("generator"))
    with pytest.raises(UserError, match=r"holds a discriminator, and no folder generator .* fine-tune it"):
        fill_mask(tmp_path / "one", "a [MASK]")


@pytest.mark.long
@pytest.mark.parametrize("exported", [False, True])
def test_the_discriminator_is_fine_tuned(workdir: Path, out: Path, tmp_path: Path, exported: bool):
    examples = write_examples("classification", tmp_path / "examples")
    asked = config_of("classification", out if exported else workdir, examples, epochs=1.0)
    (result,) = finetune(asked, workdir=tmp_path / "run")
    assert result.scores
    spec = load_spec(tmp_path / "run")
    source = out if exported else workdir
    with jax.set_mesh(mesh_of((1, 1, 1))):
        state = start_from(source, spec, mesh_of((1, 1, 1)), init_state(spec))
    theirs = transformers.ElectraForPreTraining.from_pretrained(out)
    expected = theirs.electra.embeddings.word_embeddings.weight.detach().numpy()
    found = np.asarray(state.params["encoder"]["embeddings"]["word"])[: len(expected)]
    np.testing.assert_allclose(found, expected, atol=1e-7)


# Starting from weights


def started(config: Config, source: Path) -> dict[str, dict[str, np.ndarray]]:
    """What a run that starts there would export before its first step, by folder and name."""
    spec, mesh = spec_of(replace(config, init=InitConfig(source=str(source)))), mesh_of((2, 2, 2))
    with jax.set_mesh(mesh):
        params = start_from(source, spec, mesh, init_state(spec)).params
    models = generator.models(spec.network, jax.device_get(params))
    return {folder: tensors for folder, (_, tensors) in models.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    ("exported", "embeddings"),
    [(False, "gradient_disentangled"), (True, "gradient_disentangled"), (True, "apart")],
)
def test_a_pair_is_trained_on(electra: Config, workdir: Path, out: Path, exported: bool, embeddings: str):
    """From a workdir, or from a discriminator with its generator in a folder of it."""
    asked = replace(electra, objective__embeddings=embeddings)
    found = started(asked, out if exported else workdir)
    for folder, tensors in found.items():
        expected = safetensors.numpy.load_file(out / folder / "model.safetensors")
        assert tensors.keys() == expected.keys()
        for name, array in tensors.items():
            np.testing.assert_allclose(array, expected[name], atol=1e-7, err_msg=f"{folder} {name}")


@pytest.mark.parametrize(
    "embeddings",
    ["shared", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gradient_disentangled", "apart"))],
)
def test_a_discriminator_alone_gets_a_new_generator(
    electra: Config, out: Path, tmp_path: Path, embeddings: str, caplog: pytest.LogCaptureFixture
):
    alone = tmp_path / "alone"
    shutil.copytree(out, alone, ignore=shutil.ignore_patterns("generator"))
    with caplog.at_level(logging.INFO):
        found = started(replace(electra, objective__embeddings=embeddings), alone)
    assert "it lacks generator, which stay random" in caplog.text
    expected = safetensors.numpy.load_file(alone / "model.safetensors")
    assert all(np.array_equal(found[""][name], array) for name, array in expected.items())
    word = "electra.embeddings.word_embeddings.weight"
    assert np.array_equal(found["generator"][word], expected[word]) == (embeddings != "apart")


def test_generators_that_do_not_fit_are_one_line(electra: Config, workdir: Path, out: Path):
    narrow = replace(electra, objective__generator_size=0.25)
    message = r"generator of init\.source .* has hidden_size 16, not 8: use --objective\.generator-size 0\.5"
    for source in (workdir, out):
        with pytest.raises(UserError, match=message):
            started(narrow, source)
        with pytest.raises(UserError, match=r"differ in electra\.embeddings\..*cannot be shared"):
            started(replace(electra, objective__embeddings="shared"), source)


def test_what_is_no_generator_of_a_source_is_one_line(electra: Config, out: Path, tmp_path: Path):
    wide = tmp_path / "wide"
    shutil.copytree(out, wide)
    fields = json.loads((wide / "generator/config.json").read_text())
    (wide / "generator/config.json").write_text(json.dumps(fields | {"hidden_size": 64}))
    message = (
        r"generator of init\.source .* has hidden_size 64, not 16: move its folder generator away, so that"
    )
    with pytest.raises(UserError, match=message):
        started(electra, wide)
    other = tmp_path / "other"
    shutil.copytree(out, other, ignore=shutil.ignore_patterns("generator"))
    shutil.copytree(out, other / "generator", ignore=shutil.ignore_patterns("generator"))
    with pytest.raises(
        UserError, match=r"generator holds no generator \(it is of ElectraForPreTraining, not"
    ):
        started(electra, other)


def test_a_generator_larger_than_its_discriminator_is_one_line(electra: Config, tmp_path: Path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(recipe_of(electra))
    flags = ["--workdir", str(tmp_path / "run"), "--objective.generator-size", "1.5"]
    with pytest.raises(UserError, match=r"^objective\.generator_size is 1\.5; .*[^\n]$") as raised:
        cli.run(["pretrain", str(recipe), *flags])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_what_is_written_names_the_classes(out: Path):
    for folder, kind in CLASSES.items():
        fields = json.loads((out / folder / "config.json").read_text())
        assert fields["architectures"] == [kind.__name__]
    assert "pipeline_tag" not in (out / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in (out / "generator" / "README.md").read_text()
    model = huggingface.load_network(out / "generator").model
    assert dataclasses.replace(model, dtype="float32").hidden_size == 16
