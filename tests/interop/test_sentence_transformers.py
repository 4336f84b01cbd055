"""Folders of Sentence Transformers: theirs and ours make the same vectors, whoever wrote the folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import transformers

from bert_jax.config import Config, EmbeddingConfig, ModernBertConfig, RobertaConfig
from bert_jax.interop import huggingface
from bert_jax.interop import sentence_transformers as ours
from bert_jax.interop.export import export
from bert_jax.interop.load import load_embedder, load_model
from bert_jax.tasks import TASKS
from data_pipeline.errors import UserError
from tests.helpers.data import real_documents
from tests.helpers.embeddings import (
    LONGEST,
    TEXTS,
    embedding_spec,
    shapes,
    vectors_of,
    write_folder,
    write_run,
)
from tests.helpers.examples import MINILM

TOLERANCE = 1e-5

USUAL = EmbeddingConfig(
    sequence_length=LONGEST, query_prompt="query: ", document_prompt="passage: ", dimensions=(16,)
)


@pytest.fixture(scope="module")
def usual(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small BERT: mean pooling, normalized, with prompts."""
    return write_folder(tmp_path_factory.mktemp("usual") / "model", config, USUAL)


@pytest.fixture
def copy(usual: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(usual, tmp_path / "copy")


def edit(file: Path, **changes: Any) -> None:
    fields = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(fields | changes))


def read(folder: Path) -> ours.Use:
    return load_embedder(folder).use


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE


# The same vectors


def test_vectors_with_and_without_prompts(usual: Path, SentenceTransformer: Any):
    theirs = SentenceTransformer(str(usual))
    assert_same(vectors_of(usual), theirs.encode(TEXTS))
    assert_same(vectors_of(usual, prompt="query: "), theirs.encode_query(TEXTS))
    assert_same(vectors_of(usual, prompt="passage: "), theirs.encode_document(TEXTS))
    assert np.abs(theirs.encode_query(TEXTS) - theirs.encode(TEXTS)).max() > 0.01
    assert theirs.similarity_fn_name == "cosine"


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_of_each_pooling_as_they_are(
    config: Config, tmp_path: Path, SentenceTransformer: Any, pooling: Any
):
    settings = EmbeddingConfig(sequence_length=LONGEST, pooling=pooling, normalize=False)
    folder = write_folder(tmp_path / "model", config, settings)
    assert read(folder).settings == settings
    assert_same(vectors_of(folder), SentenceTransformer(str(folder)).encode(TEXTS))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [(ModernBertConfig, {}), (RobertaConfig, {"max_position_embeddings": 66, "pad_token_id": 0})],
    ids=["modernbert", "roberta"],
)
def test_vectors_of_other_encoders(
    config: Config, tmp_path: Path, SentenceTransformer: Any, kind: Any, sizes: dict[str, int]
):
    model = kind(**shapes(config) | sizes)
    folder = write_folder(tmp_path / "model", config, EmbeddingConfig(sequence_length=LONGEST), model=model)
    assert_same(vectors_of(folder), SentenceTransformer(str(folder)).encode(TEXTS))


def test_vectors_that_are_cut_have_length_1_again(
    config: Config, usual: Path, tmp_path: Path, SentenceTransformer: Any
):
    """Theirs only if they are asked."""
    theirs = SentenceTransformer(str(usual))
    expected = theirs.encode(TEXTS, truncate_dim=16, normalize_embeddings=True)
    assert_same(vectors_of(usual, dimensions=16), expected)
    folder = write_folder(tmp_path / "model", config, USUAL, dimensions=16)
    assert read(folder).dimensions == 16
    assert_same(SentenceTransformer(str(folder)).encode(TEXTS, normalize_embeddings=True), expected)
    assert_same(vectors_of(folder), expected)
    with pytest.raises(UserError, match="a vector of the model has 32 numbers, not 33"):
        vectors_of(usual, dimensions=33)


@pytest.mark.long
def test_vectors_of_a_published_model(SentenceTransformer: Any):
    """all-MiniLM-L6-v2, as it was published."""
    texts = [line for document in real_documents(6) for line in document if line.strip()][:20]
    texts.append(" ".join(texts * 2))  # more than 256 tokens
    assert load_embedder(MINILM).use == ours.Use(EmbeddingConfig(sequence_length=256))
    assert_same(vectors_of(MINILM, texts), SentenceTransformer(str(MINILM)).encode(texts))


def test_vectors_of_an_encoder_that_nobody_has_said_more_about(
    folder_of: Callable[..., Path], SentenceTransformer: Any, caplog: pytest.LogCaptureFixture
):
    """The mean of its tokens, not normalized."""
    folder = folder_of("mlm_nsp")
    with caplog.at_level(logging.INFO, "bert_jax.interop.sentence_transformers"):
        found = vectors_of(folder)
    said = f"{folder} does not say what a text's vector is (no modules.json): the mean of its tokens, not"
    assert caplog.messages == [f"{said} normalized"]
    assert_same(found, SentenceTransformer(str(folder)).encode(TEXTS))


@pytest.mark.parametrize(
    "kind", [task.Config.kind for task in TASKS if task.HUGGINGFACE_SUFFIX != huggingface.NO_HEAD]
)
def test_an_encoder_with_a_head_for_a_task_has_no_vectors(folder_of: Callable[..., Path], kind: str):
    """A cross-encoder is a BertForSequenceClassification as one is that reads single texts."""
    with pytest.raises(
        UserError, match=rf"is a Bert\w+, for {kind} and not for vectors: use bert-jax predict"
    ):
        load_embedder(folder_of(kind))


def test_a_folder_that_says_what_its_vectors_are_may_name_any_class(usual: Path, copy: Path):
    edit(copy / "config.json", architectures=["BertForSequenceClassification"])
    np.testing.assert_array_equal(vectors_of(copy, TEXTS[:3]), vectors_of(usual, TEXTS[:3]))


def test_what_they_save_is_read_as_what_we_wrote(usual: Path, tmp_path: Path, SentenceTransformer: Any):
    """Names of classes and fields as version 6 has them."""
    SentenceTransformer(str(usual)).save(str(tmp_path / "theirs"))
    assert "base.modules" in (tmp_path / "theirs/modules.json").read_text()
    use = read(tmp_path / "theirs")
    assert use.settings == read(usual).settings
    assert_same(vectors_of(tmp_path / "theirs"), vectors_of(usual))


# An export


def test_a_run_is_exported_for_sentence_transformers(
    config: Config,
    tmp_path: Path,
    SentenceTransformer: Any,
):
    run = write_run(tmp_path / "run", config, embedding_spec(config, USUAL))
    export(run, out=tmp_path / "out", dimensions=16, license="apache-2.0")
    expected = dataclasses.replace(USUAL, dimensions=())  # which the folder does not say
    assert read(tmp_path / "out") == ours.Use(expected, dimensions=16)
    found = vectors_of(run, prompt="query: ", dimensions=16)
    theirs = SentenceTransformer(str(tmp_path / "out"))
    assert_same(found, theirs.encode_query(TEXTS, normalize_embeddings=True))
    assert theirs.max_seq_length == LONGEST
    card = (tmp_path / "out/README.md").read_text()
    front = card.split("---\n")[1].splitlines()
    assert {"library_name: sentence-transformers", "pipeline_tag: sentence-similarity"} < set(front)
    assert "license: apache-2.0" in front
    said = "Vectors: the first 16 of 32 numbers, the mean of all tokens, of length 1 before they are cut"
    assert f"{said}; texts of up to 48 tokens" in card
    assert 'SentenceTransformer("DIR")' in card
    assert 'prompt_name="query"' in card
    assert "Sizes to which a vector may be cut: 16" in card
    for dimensions, message in ((8, r"no size .* \(task\.dimensions: 16\)"), (33, "no size")):
        with pytest.raises(UserError, match=message):
            export(run, out=tmp_path / "other", dimensions=dimensions)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dimensions", [None, 16])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_card_says_how_long_vectors_are(
    config: Config, tmp_path: Path, SentenceTransformer: Any, normalize: bool, dimensions: int | None
):
    settings = dataclasses.replace(USUAL, normalize=normalize)
    run = write_run(tmp_path / "run", config, embedding_spec(config, settings))
    export(run, out=tmp_path / "out", dimensions=dimensions)
    found = SentenceTransformer(str(tmp_path / "out")).encode(TEXTS[:4])
    assert found.shape == (4, dimensions or 32)
    card = (tmp_path / "out/README.md").read_text()
    assert ("Vectors: the first 16 of 32 numbers, " in card) == (dimensions == 16)
    has_length_1 = np.allclose(np.linalg.norm(found, axis=1), 1)
    assert (", of length 1; texts of up to" in card) == has_length_1
    is_shorter = normalize and not has_length_1
    assert ("Vectors that are cut: are shorter than length 1, unless `encode` is asked" in card) == is_shorter


def test_weights_have_the_names_of_a_model_without_a_head(usual: Path):
    """Nothing is missing, nothing left over; a pooler, if one is asked for, is random, which is said."""
    load = transformers.AutoModel.from_pretrained
    model, info = load(usual, add_pooling_layer=False, output_loading_info=True)
    assert type(model) is transformers.BertModel
    assert not any(info.values()), info
    assert not any(
        name.startswith("bert.") for name in safetensors.numpy.load_file(usual / "model.safetensors")
    )
    info = load(usual, output_loading_info=True)[1]
    assert {*info["missing_keys"]} == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not info["unexpected_keys"]


def test_sentence_transformers_makes_no_random_pooler(usual: Path, SentenceTransformer: Any):
    assert SentenceTransformer(str(usual)).transformers_model.pooler is None


def test_such_a_folder_is_a_model_for_embeddings(usual: Path):
    network, params, _ = load_model(usual)
    assert network.settings == read(usual).settings
    assert params.keys() == {"encoder"}


# What is read


def test_settings_that_are_not_there_are_the_usual_ones(copy: Path):
    """The length is the tokenizer's, and no more than there are positions."""
    (copy / ours.USE_FILE).unlink()
    (copy / ours.LENGTH_FILES[0]).unlink()
    assert read(copy) == ours.Use(EmbeddingConfig(sequence_length=64))
    edit(copy / "tokenizer_config.json", model_max_length=32)
    assert read(copy).settings.sequence_length == 32
    edit(copy / ours.LENGTH_FILES[1], max_seq_length=500)
    assert read(copy).settings.sequence_length == 64


def test_prompts_have_several_names(copy: Path):
    edit(
        copy / ours.USE_FILE,
        prompts={"query": "q: ", "document": None, "passage": "p: ", "topic": "t: "},
        default_prompt_name="topic",
    )
    use = read(copy)
    assert (use.settings.query_prompt, use.settings.document_prompt, use.prompt) == ("q: ", "p: ", "t: ")
    np.testing.assert_array_equal(vectors_of(copy, TEXTS[:3]), vectors_of(copy, TEXTS[:3], prompt="t: "))


def modules(*classes: str, prefix: str = "sentence_transformers.models.", **paths: str) -> str:
    listed = [
        {"idx": i, "name": str(i), "path": paths.get(name, f"{i}_{name}" if i else ""), "type": prefix + name}
        for i, name in enumerate(classes)
    ]
    return json.dumps(listed)


USE, POOL, LENGTH = ours.USE_FILE, "1_Pooling/config.json", ours.LENGTH_FILES[0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "modules.json",
            modules("Transformer", "Pooling", "Dense"),
            r"module sentence_transformers\.models\.Dense; known are Transformer, Pooling, Normalize",
        ),
        ("modules.json", modules("Transformer", "Pooling", prefix="mine."), r"has the module mine\.Transf"),
        ("modules.json", modules("Transformer"), "has Transformer; known is Transformer, Pooling, Norm"),
        ("modules.json", modules("Transformer", "Normalize", "Pooling"), "has Transformer, Normalize, Pool"),
        (
            "modules.json",
            modules("Transformer", "Pooling", Pooling="../secret"),
            r"path '\.\./secret', which",
        ),
        ("modules.json", modules("Transformer", "Pooling", Pooling="/etc"), "path '/etc', which is none"),
        ("modules.json", modules("Transformer", "Pooling", Transformer="0_Transformer"), "before version 2"),
        (
            "modules.json",
            modules("Transformer", "Pooling", Pooling="nowhere"),
            "no nowhere/config.json, of the",
        ),
        ("modules.json", "{", "modules.json is not JSON"),
        ("modules.json", '{"0": 1}', "is no list of modules"),
        ("modules.json", "[]", "has no modules; known is"),
        (
            POOL,
            {"pooling_mode_max_tokens": True},
            "the module Pooling takes max and mean; known are cls, mean",
        ),
        (POOL, {"pooling_mode": "weightedmean"}, "the module Pooling takes weightedmean"),
        (POOL, {"pooling_mode": 3}, "the module Pooling takes 3"),
        (POOL, {"include_prompt": False}, "the module Pooling has include_prompt false; known is true"),
        (
            "2_Normalize/config.json",
            {"module_input_name": "token_embeddings"},
            "Normalize has module_input_na",
        ),
        (LENGTH, {"transformer_task": "fill-mask"}, 'Transformer has transformer_task "fill-mask"'),
        (LENGTH, {"do_lower_case": True}, None),
        (LENGTH, {"max_seq_length": "many"}, "max_seq_length 'many'; it must be a whole number, at least 8"),
        (LENGTH, {"max_seq_length": 3}, "max_seq_length 3; it must be"),
        (
            USE,
            {"model_type": "CrossEncoder"},
            "copy is a CrossEncoder, which reads two texts together .*predict",
        ),
        (USE, {"model_type": "SparseEncoder"}, "is of a SparseEncoder; known is SentenceTransformer"),
        (USE, {"prompts": {"query": 3}}, "which are no texts by name"),
        (USE, {"default_prompt_name": "topic"}, "default_prompt_name 'topic', which is no prompt of it"),
        (USE, {"truncate_dim": "16"}, "truncate_dim '16', which is no size of a vector"),
    ],
)
def test_what_cannot_be_run_is_named_in_a_line(copy: Path, file: str, content: Any, message: str | None):
    if isinstance(content, str):
        (copy / file).write_text(content)
    else:
        edit(copy / file, **content)
    if message is None:
        read(copy)
        return
    with pytest.raises((UserError, FileNotFoundError), match=message) as refused:
        read(copy)
    assert "\n" not in str(refused.value)


def test_a_case_that_is_lowered_elsewhere_than_in_the_tokenizer_is_refused(copy: Path):
    edit(copy / LENGTH, do_lower_case=True)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit(copy / "tokenizer_config.json", kind=None)
    with pytest.raises(UserError, match="do_lower_case is true, but the tokenizer keeps the case"):
        read(copy)
