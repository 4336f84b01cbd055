"""Folders of late interaction: MultiVectorEncoder of Sentence Transformers makes the vectors that we make."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from bert_jax.config import (
    ClassificationConfig,
    Config,
    EmbeddingConfig,
    LateInteractionConfig,
    ModernBertConfig,
)
from bert_jax.interop.load import load_embedder, load_model
from bert_jax.interop.multi_vector import PROJECTION
from bert_jax.interop.sentence_transformers import USE_FILE
from bert_jax.interop.source import read_weights
from bert_jax.tasks import classification, embedding, late_interaction
from bert_jax.training.network import Network
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from tests.helpers.embeddings import TEXTS, shapes
from tests.helpers.examples import MINILM
from tests.helpers.folders import write_folder
from tests.helpers.late_interaction import vectors_of
from tests.helpers.steps import mesh_of
from tests.interop.test_sentence_transformers import edit

PAIRS = [(text[: 3 + 5 * n], TEXTS[-1 - n]) for n, text in enumerate(TEXTS[:16])]
"""Queries shorter and longer than they may be."""
USUAL = LateInteractionConfig(sequence_length=40, query_length=16, dimensions=8)
EXPANDED = dataclasses.replace(USUAL, query_expansion=True)
BY_PIECES = {"query_prompt": "[unused0]", "document_prompt": "[unused1]"}
BY_TEXTS = {"query_prompt": "query: ", "document_prompt": "passage: ", "skip_punctuation": False}


@pytest.fixture(scope="session")
def MultiVectorEncoder() -> Any:
    """Their class, whose import takes a while."""
    import sentence_transformers

    return functools.partial(sentence_transformers.MultiVectorEncoder, device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def usual(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small BERT with the vocabulary of MiniLM."""
    words = tokenizer.load(MINILM)
    model = dataclasses.replace(config.model, vocab_size=words.vocab_size)
    settings = dataclasses.replace(EXPANDED, **BY_PIECES)
    return write_folder(
        tmp_path_factory.mktemp("late") / "model", Network(model, late_interaction, settings), words
    )


@pytest.fixture
def copy(usual: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(usual, tmp_path / "copy")


def assert_theirs(folder: Path, theirs: Any) -> None:
    """Vectors and scores, of queries and documents of many lengths."""
    ours = vectors_of(folder, PAIRS)
    lengths = {len(vectors) for vectors in ours[0]}
    assert lengths == {16} if load_model(folder).network.settings.query_expansion else len(lengths) > 3
    queries, documents = (list(texts) for texts in zip(*PAIRS, strict=True))
    expected = theirs.encode_query(queries), theirs.encode_document(documents)
    for found, there in zip(ours, expected, strict=True):
        assert [len(vectors) for vectors in found] == [len(vectors) for vectors in there]
        np.testing.assert_allclose(
            np.concatenate(found), np.concatenate([x.numpy() for x in there]), atol=1e-5
        )
    scores = [[(q @ d.T).max(axis=1).sum() for d in ours[1]] for q in ours[0]]
    np.testing.assert_allclose(scores, theirs.similarity(*expected), atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("settings", [USUAL, EXPANDED], ids=["plain", "expanded"])
@pytest.mark.parametrize("prompts", [BY_PIECES, BY_TEXTS], ids=["pieces", "texts"])
def test_vectors_and_scores_are_theirs(
    config: Config, settings: Any, prompts: Any, tmp_path: Path, MultiVectorEncoder: Any
):
    words = tokenizer.load(MINILM)
    model = dataclasses.replace(config.model, vocab_size=words.vocab_size)
    settings = dataclasses.replace(settings, **prompts)
    folder = write_folder(tmp_path / "model", Network(model, late_interaction, settings), words)
    assert load_model(folder).network.settings == settings
    assert_theirs(folder, MultiVectorEncoder(str(folder)))


def test_vectors_of_another_encoder_and_tokenizer(config: Config, tmp_path: Path, MultiVectorEncoder: Any):
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    folder = write_folder(
        tmp_path / "model", Network(ModernBertConfig(**shapes(config)), late_interaction, EXPANDED), words
    )
    assert_theirs(folder, MultiVectorEncoder(str(folder)))


def test_what_they_save_is_read_as_what_we_wrote(usual: Path, tmp_path: Path, MultiVectorEncoder: Any):
    """With modules and fields as version 6 has them."""
    theirs = MultiVectorEncoder(str(usual))
    theirs.save(str(tmp_path / "theirs"))
    assert "MultiVectorMask" in (tmp_path / "theirs/modules.json").read_text()
    assert load_model(tmp_path / "theirs").network == load_model(usual).network
    for found, there in zip(vectors_of(tmp_path / "theirs", PAIRS), vectors_of(usual, PAIRS), strict=True):
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(there))


def test_what_is_not_said_is_as_pylate_has_it(copy: Path):
    """Its first versions did not say what kind of model it is."""
    edit(copy / USE_FILE, model_type=None, query_length=None, document_length=None, skiplist_words=None)
    settings = load_model(copy).network.settings
    assert (settings.query_length, settings.sequence_length, settings.skip_punctuation) == (32, 64, True)


def test_weights_have_the_names_of_a_model_without_a_head(usual: Path):
    _, info = transformers.AutoModel.from_pretrained(usual, add_pooling_layer=False, output_loading_info=True)
    assert not any(info.values()), info


# As the source of a fine-tuning


def weights_for(folder: Path, task: Any, settings: Any) -> dict[str, Any]:
    network = Network(load_model(folder).network.model, task, settings)
    return read_weights(folder, network, mesh_of((1, 1, 1)))


def test_a_folder_gives_encoder_and_projection(usual: Path):
    """The projection to whom it fits."""
    given = load_model(usual).params["objective"]["linear"]["kernel"]
    words = "bert.embeddings.word_embeddings.weight"
    found = weights_for(usual, late_interaction, USUAL)
    np.testing.assert_array_equal(found[PROJECTION], given)
    assert words in found
    for task, settings in (
        (late_interaction, dataclasses.replace(USUAL, dimensions=4)),
        (embedding, EmbeddingConfig()),
        (classification, ClassificationConfig(labels=("a", "b"))),
    ):
        found = weights_for(usual, task, settings)
        assert words in found
        assert PROJECTION not in found


# What is read


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (USE_FILE, {"attend_to_expansion_tokens": False}, "expands queries with attend false; known is true"),
        (USE_FILE, {"skiplist_words": ["the"]}, r"leaves out the words \['the'\]; known is punctuation"),
        (USE_FILE, {"query_length": "many"}, "query_length 'many'; it must be a whole number, at least 8"),
        (USE_FILE, {"document_length": 3}, "document_length 3; it must be a whole number"),
        (
            USE_FILE,
            {"prompts": {"query": "so: "}},
            r"query_prefix '\[unused0\]' and a prompt 'so: '",
        ),
        ("1_Dense/config.json", {"bias": True}, "the module Dense has bias true; known is false"),
        ("1_Dense/config.json", {"in_features": 9}, "the module Dense has in_features 9; known is 32"),
        (
            "1_Dense/config.json",
            {"out_features": None},
            "out_features None, which is no size of a vector",
        ),
        (
            "1_Dense/config.json",
            {"activation_function": "torch.nn.Tanh"},
            'activation_function "torch.nn.Tan',
        ),
        (
            "1_Dense/config.json",
            {"out_features": 4},
            r"linear\.weight has shape \(8, 32\), but \(4, 32\) is what",
        ),
    ],
)
def test_what_cannot_be_run_is_named_in_a_line(copy: Path, file: str, changes: Any, message: str):
    edit(copy / file, **changes)
    with pytest.raises(UserError, match=message) as refused:
        load_model(copy)
    assert "\n" not in str(refused.value)


def test_files_that_lack_or_are_damaged_are_named(copy: Path):
    (copy / "1_Dense/model.safetensors").write_bytes(b"?")
    with pytest.raises(UserError, match=r"1_Dense/model\.safetensors is damaged"):
        load_model(copy)
    for name in ("model.safetensors", "config.json"):
        (copy / "1_Dense" / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"has no 1_Dense/{name}, of the module Dense"):
            load_model(copy)


def test_it_has_no_vector_for_a_text(usual: Path):
    with pytest.raises(UserError, match="makes a vector for each token of a text, not one for a text"):
        load_embedder(usual)
