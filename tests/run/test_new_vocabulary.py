"""Weights with a new vocabulary, from a folder of Transformers to a folder of Transformers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.cli import main as cli
from bert_jax.config import (
    BertConfig,
    ClassificationConfig,
    Config,
    DistilBertConfig,
    ElectraConfig,
    EncoderConfig,
    InitConfig,
    ModelConfig,
    ModernBertConfig,
    RobertaConfig,
    TokenizerConfig,
)
from bert_jax.inference.fill_mask import masked_batch, token_logits
from bert_jax.interop import huggingface, vocabulary
from bert_jax.interop.initialize import resolve, start_from
from bert_jax.objectives import mlm
from bert_jax.parallel.platform import Platform
from bert_jax.run.pretrain import pretrain
from bert_jax.training.network import Network, parameters
from bert_jax.training.step import abstract_state
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from data_pipeline.prepare import prepare
from tests.helpers.configs import recipe_of, replace
from tests.helpers.steps import mesh_of
from tests.helpers.tokenizers import published

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, type[EncoderConfig], dict[str, Any]]] = {
    "bert": ("wordpiece", BertConfig, SIZES),
    "modernbert": ("wordpiece", ModernBertConfig, SIZES),
    "roberta": ("roberta", RobertaConfig, SIZES | {"max_position_embeddings": 66}),
    "distilbert": ("wordpiece", DistilBertConfig, SIZES),
    "electra": ("wordpiece", ElectraConfig, SIZES | {"embedding_size": 16}),
}
"""Tokenizer, encoder and its fields."""


def save(folder: Path, network: Network) -> None:
    """Beside a tokenizer, what Hugging Face would have, with random weights."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype(np.float32), parameters(network))
    tensors = huggingface.to_tensors(network, params)
    safetensors.numpy.save_file(tensors, folder / huggingface.WEIGHTS_FILE, metadata={"format": "pt"})
    fields = huggingface.to_config(network, special_tokens=tokenizer.load(folder).special_tokens)
    (folder / huggingface.CONFIG_FILE).write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """source_of(family): a random model with a tokenizer, as Hugging Face has it."""

    def make(name: str) -> Path:
        words, kind, fields = FAMILIES[name]
        folder = tmp_path_factory.mktemp("models") / name
        shutil.copytree(published(words), folder)
        known = tokenizer.load(folder)
        if name == "roberta":
            fields = fields | {"pad_token_id": known.special_tokens.pad}
        network = Network(kind(vocab_size=known.vocab_size, **fields), mlm, mlm.Config())
        save(folder, network)
        return folder

    return make


@pytest.fixture(scope="module")
def new(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run of a few steps on rows of byte-level BPE, whose padding is piece 0."""
    data = dataclasses.replace(
        config.data,
        tokenizer=TokenizerConfig(kind="byte_bpe", vocab_size=600, lowercase=False),
        dir=str(tmp_path_factory.mktemp("new") / "data"),
        input_format="full_sentences",
    )
    prepare(data)
    return replace(
        config,
        data=data,
        model=ModelConfig(dtype="float32"),
        init=InitConfig(source="a folder", vocabulary="transplant"),
        optimizer__warmup_steps=1,
        train__steps=3,
        train__eval_every=3,
        train__eval_batches=1,
    )


def started(
    config: Config, source: Path, mesh: tuple[int, int, int] = (1, 1, 1)
) -> tuple[Network, huggingface.Tensors]:
    """The weights that a run begins with, as Transformers calls them."""
    config = replace(config, init__source=str(source))
    spec = resolve(config, platform=Platform("cpu"))
    on = mesh_of(mesh)
    fresh = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), abstract_state(spec, on)
    )
    state = start_from(source, spec, on, fresh)
    return spec.network, huggingface.to_tensors(spec.network, jax.device_get(state.params))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_encoder_gets_a_new_vocabulary(
    name: str, new: Config, source_of: Any, caplog: pytest.LogCaptureFixture
):
    """Embeddings and the bias of the decoder change, and nothing else; a token stays at its position."""
    source = source_of(name)
    caplog.set_level("INFO")
    network, tensors = started(new, source)
    before = huggingface.load_tensors(source)
    old, ours = tokenizer.load(source), tokenizer.load(Path(new.data.dir) / "tokenizer")
    assert network.model.vocab_size == ours.vocab_size == 600
    assert network.model.longest == 64
    found = vocabulary.origins(old, ours)
    assert f"vocabulary: {found}" in caplog.messages
    assert found.copied > 200
    changed = {}
    for tensor, array in tensors.items():
        if len(array) == 600:
            changed[tensor] = array
            np.testing.assert_array_equal(array, found.rows(before[tensor], size=600), err_msg=tensor)
        elif tensor.endswith("position_embeddings.weight"):
            np.testing.assert_array_equal(array[-64:], before[tensor][-64:])
        else:
            np.testing.assert_array_equal(array, before[tensor], err_msg=tensor)
    assert sorted(array.ndim for array in changed.values()) == [1, 2]
    words = next(array for array in changed.values() if array.ndim == 2)
    theirs = before[next(tensor for tensor, array in changed.items() if array.ndim == 2)]
    shared = "the" if old.spelling != ours.spelling else "Ġthe"
    np.testing.assert_array_equal(words[ours.ids["Ġthe"]], theirs[old.ids[shared]])
    if name == "roberta":
        assert (network.model.pad_token_id, network.model.max_position_embeddings) == (0, 65)


@pytest.mark.long
def test_from_transformers_to_transformers(new: Config, source_of: Any, tmp_path: Path):
    """By the command line; the run itself is a source too, of the same rows.

    A RoBERTa has one type of tokens, of which the tokenizer for it makes no second one.
    """
    recipe, workdir, out = tmp_path / "recipe.py", str(tmp_path / "run"), tmp_path / "out"
    source = source_of("roberta")
    recipe.write_text(recipe_of(replace(new, data__dir=str(tmp_path / "data"), init__source=str(source))))
    assert cli.run(["prepare", str(recipe)]) == 0
    assert cli.run(["pretrain", str(recipe), "--workdir", workdir]) == 0
    assert cli.run(["pretrain", str(recipe), "--workdir", workdir]) == 0, "it is resumed"
    assert cli.run(["export", "--workdir", workdir, "--out", str(out)]) == 0

    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    words = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs.config.vocab_size == len(words) == 600
    with torch.no_grad():
        assert torch.isfinite(
            theirs(**words("the value [MASK] it", "a pair", return_tensors="pt")).logits
        ).all()

    _, again = started(new, Path(workdir), (1, 2, 2))
    saved = huggingface.load_tensors(out)
    assert again.keys() == saved.keys()
    assert [tensor for tensor in again if again[tensor].tobytes() != saved[tensor].tobytes()] == []


@pytest.fixture(scope="module")
def with_slots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT whose vocabulary has two unused slots."""
    folder = tmp_path_factory.mktemp("slots")
    ordinary = [piece for piece in tokenizer.load(published("wordpiece")).pieces if not piece.startswith("[")]
    pieces = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ordinary]
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    network = Network(BertConfig(vocab_size=len(pieces), **SIZES), mlm, mlm.Config())
    save(folder, network)
    return folder


@pytest.fixture(scope="module")
def extended(new: Config, with_slots: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """On rows of its vocabulary and three words more."""
    words = TokenizerConfig(
        kind="wordpiece",
        vocab_file=str(with_slots / "vocab.txt"),
        added_tokens=("quuxification", "##quuxify", "bertjaxium"),
    )
    folder = tmp_path_factory.mktemp("extended") / "data"
    config = replace(new, data__tokenizer=words, data__dir=str(folder), init__vocabulary="extend")
    prepare(config.data)
    return config


def test_an_extended_vocabulary_says_the_same_of_old_texts(extended: Config, with_slots: Path):
    network, tensors = started(extended, with_slots)
    old, ours = tokenizer.load(with_slots), tokenizer.load(Path(extended.data.dir) / "tokenizer")
    assert network.model.vocab_size == ours.vocab_size == old.vocab_size + 1
    text = "the value of the [MASK] is a string"
    encoding = ours.huggingface.encode(text)
    assert encoding.ids == old.huggingface.encode(text).ids
    batch = masked_batch(encoding, [*range(len(encoding.ids))], longest=64)
    before, params = huggingface.load(with_slots)
    expected = np.asarray(token_logits(before, params, batch))
    found = np.asarray(token_logits(network, huggingface.from_tensors(network, tensors), batch))
    same = [id for id in range(old.vocab_size) if id not in (1, 2)]
    np.testing.assert_allclose(found[:, same], expected[:, same], atol=2e-6)

    (embeddings,) = (array for array in tensors.values() if array.shape == (ours.vocab_size, 32))
    for word in ("quuxification", "bertjaxium"):
        (parts,) = old.encode_batch([word])
        np.testing.assert_allclose(embeddings[ours.ids[word]], embeddings[parts].mean(axis=0), atol=1e-7)


# What is refused


def refused(config: Config, source: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        started(config, source)


def test_another_tokenizer_is_no_extension(new: Config, source_of: Any):
    message = (
        r"extend: the tokenizer of data\.dir .* has '\[PAD\]' as piece 0, where .* has '\[MASK\]': extend"
    )
    refused(replace(new, init__vocabulary="extend"), source_of("bert"), message)


def test_one_that_keeps_the_case_is_no_extension(extended: Config, with_slots: Path, tmp_path: Path):
    source = shutil.copytree(with_slots, tmp_path / "source")
    (source / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    refused(extended, source, "has 'the cafe of paris' for 'The Café of PARIS', where that of")


def test_the_source_must_tell_what_its_rows_are(new: Config, source_of: Any, tmp_path: Path):
    source = shutil.copytree(source_of("bert"), tmp_path / "source")
    fields = json.loads((source / "tokenizer.json").read_text())
    fields["model"]["vocab"]["onemore"] = 1200
    (source / "tokenizer.json").write_text(json.dumps(fields))
    refused(new, source, r"the tokenizer of init\.source .* has 1201 pieces for 1200 rows")
    (source / "tokenizer.json").unlink()
    refused(new, source, "init.vocabulary transplant: init.source .* has no tokenizer")


def test_moments_are_of_the_old_pieces(new: Config, source_of: Any):
    config = replace(new, init__optimizer_state=True)
    refused(config, source_of("bert"), r"the moments of init\.optimizer_state belong to other pieces")


def test_without_weights_there_is_no_other_vocabulary(new: Config, tmp_path: Path):
    with pytest.raises(UserError, match=r"init\.vocabulary is transplant, .*: give init\.source"):
        pretrain(replace(new, init__source=None), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_flag_that_the_dataset_decides_is_refused(new: Config, tmp_path: Path):
    (tmp_path / "recipe.py").write_text(recipe_of(replace(new, model=BertConfig())))
    with pytest.raises(UserError, match=r"--model.vocab-size cannot be given: .* follows from the dataset"):
        cli.run(["pretrain", str(tmp_path / "recipe.py"), "--workdir", "x", "--model.vocab-size", "600"])


def test_a_fine_tuning_keeps_the_vocabulary_of_its_source():
    init = InitConfig(source="x", vocabulary="transplant")
    with pytest.raises(UserError, match=r"init\.vocabulary is 'transplant', but in a fine-tuning it follows"):
        Config(model=ModelConfig(), task=ClassificationConfig(), init=init)
