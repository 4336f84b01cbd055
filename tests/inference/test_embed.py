"""Vectors of the texts of a file: each beside its text, however they are read, cut and computed together."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bert_jax.config import Config, EmbeddingConfig
from bert_jax.inference import vectors as making
from bert_jax.inference.embed import embed
from bert_jax.inference.vectors import SHORTEST_TEXT, pack, widths_for
from bert_jax.interop.export import export
from data_pipeline.errors import UserError
from tests.helpers.configs import spec_of
from tests.helpers.embeddings import LONGEST, TEXTS, vectors_of, write_folder, write_run

SETTINGS = EmbeddingConfig(sequence_length=LONGEST, query_prompt="query: ", document_prompt="passage: ")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "model", config, SETTINGS)


@pytest.fixture(scope="module")
def expected(model: Path) -> np.ndarray:
    """The vectors of TEXTS."""
    return vectors_of(model)


@pytest.fixture
def made(model: Path, tmp_path: Path) -> Callable[..., np.ndarray]:
    """What `embed` writes for a file of that name and content, or for lines."""

    def make(name: str | None, content: bytes, **asked: Any) -> np.ndarray:
        lines: Iterable[bytes] = content.splitlines(keepends=True) if name is None else ()
        file = None
        if name is not None:
            (tmp_path / name).write_bytes(content)
            file = str(tmp_path / name)
        out = tmp_path / "vectors.npy"
        out.unlink(missing_ok=True)
        count, size = embed(model, file=file, lines=lines, out=out, **asked)
        found = np.load(out)
        assert found.dtype == np.float32
        assert found.shape == (count, size)
        return found

    return make


def of_texts(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def of_objects(texts: Iterable[str], column: str) -> bytes:
    return "".join(json.dumps({"_id": i, column: text}) + "\n" for i, text in enumerate(texts)).encode()


# How texts are read


@pytest.mark.parametrize(
    ("name", "content", "asked"),
    [
        (None, of_texts(TEXTS), {}),
        ("a.txt", of_texts(TEXTS), {}),
        ("a.txt.gz", gzip.compress(of_texts(TEXTS)), {}),
        ("a.jsonl", of_objects(TEXTS, "text"), {}),
        ("a.jsonl", of_objects(TEXTS, "body"), {"column": "body"}),
        ("a.tsv", of_texts(["id\tbody", *(f"1\t{text}" for text in TEXTS)]), {"column": "body"}),
    ],
    ids=["lines", "txt", "gz", "jsonl", "a column", "tsv"],
)
def test_vectors_are_in_the_order_of_the_texts(
    made: Callable, expected: np.ndarray, name: str | None, content: bytes, asked: dict
):
    np.testing.assert_array_equal(made(name, content, **asked), expected)


def test_a_prompt_is_the_models_or_ones_own(made: Callable, model: Path):
    content = of_texts(TEXTS[:4])
    for asked, prompt in (("query", "query: "), ("document", "passage: "), ("about ", "about "), ("", "")):
        np.testing.assert_array_equal(
            made(None, content, prompt=asked), made(None, of_texts(prompt + text for text in TEXTS[:4]))
        )


def test_parquet_has_the_same_vectors(model: Path, tmp_path: Path, expected: np.ndarray):
    embed(model, file=None, lines=of_texts(TEXTS).splitlines(), out=tmp_path / "a.parquet")
    column = parquet.read_table(tmp_path / "a.parquet")["vector"].combine_chunks()
    np.testing.assert_array_equal(column.values.to_numpy().reshape(len(TEXTS), -1), expected)


def test_an_empty_text_has_a_vector_of_zeros_and_is_named_at_the_end(
    model: Path, tmp_path: Path, expected: np.ndarray
):
    lines = of_texts(["", *TEXTS[:2], " \t", TEXTS[2]]).splitlines(keepends=True)
    with pytest.raises(
        UserError, match=r"^2 of 5 texts are empty, and their vectors 0: standard input line 1, .* line 4$"
    ):
        embed(model, file=None, lines=lines, out=tmp_path / "a.npy")
    found = np.load(tmp_path / "a.npy")
    assert not found[[0, 3]].any()
    assert np.abs(found[[1, 2, 4]] - expected[:3]).max() <= TOLERANCE


def test_texts_that_lost_their_end_are_counted(made: Callable, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "bert_jax.inference.embed"):
        made(None, of_texts(["a name"]))
        assert not caplog.messages
        made(None, of_texts(["a name", "name " * 100, "name " * 44, "name " * 100]))
    assert caplog.messages == ["cut, because too long: 2, the first is standard input line 2"]


@pytest.mark.parametrize(
    ("name", "content", "asked", "message"),
    [
        (
            "a.jsonl",
            b'{"body": "one"}\n',
            {},
            r"line 1 has no column 'text'; it has body; choose one with --t",
        ),
        ("a.jsonl", b'{"text": 3}\n', {}, r"line 1: 'text' is 3, not a text"),
        ("a.doc", b"one\n", {}, "a.doc' is no source of text examples; files are .tsv"),
        (None, b"", {}, "standard input has no texts"),
        (None, b"caf\xe9\n", {}, "standard input line 1: not valid UTF-8"),
        (None, b"one\n", {"dimensions": 33}, "a vector of the model has 32 numbers, not 33"),
    ],
)
def test_what_cannot_be_read_writes_nothing(
    made: Callable, tmp_path: Path, name: str | None, content: bytes, asked: dict, message: str
):
    with pytest.raises(UserError, match=message):
        made(name, content, **asked)
    assert [path.name for path in tmp_path.iterdir()] == ([name] if name else [])


def test_a_file_of_another_kind_is_refused(model: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"a\.txt is no file of vectors; known are \.npy, \.parquet"):
        embed(model, file=None, lines=[b"one"], out=tmp_path / "a.txt")


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path):
    """And the model is not looked for."""
    out = tmp_path / "a.npy"
    out.write_bytes(b"of hours")
    with pytest.raises(FileExistsError, match=r"a\.npy exists already; delete it, or give another --out$"):
        embed(tmp_path / "nowhere", file=None, lines=[b"one"], out=out)
    assert out.read_bytes() == b"of hours"
    assert list(tmp_path.iterdir()) == [out]


def test_what_fails_on_the_way_leaves_nothing(
    made: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(making, "_batch", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(None, b"one\n")
    assert not list(tmp_path.iterdir())


# How they are computed


def test_what_is_computed_together_changes_no_vector(
    model: Path, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """Several texts in a row, or one after the other; in one chunk or in many."""
    alone = np.concatenate([vectors_of(model, [text]) for text in TEXTS[:4]])
    assert np.abs(alone - expected[:4]).max() <= TOLERANCE
    monkeypatch.setattr(making, "CHUNK", 7)
    assert np.abs(vectors_of(model) - expected).max() <= TOLERANCE


@given(st.lists(st.integers(3, 500), max_size=200))
def test_every_text_is_in_one_row_that_is_as_wide_as_its_longest_needs(lengths: list[int]):
    widths = widths_for(max(lengths, default=0), most=512)
    rows = pack(lengths, widths)
    assert sorted(text for of_width in rows.values() for row in of_width for text in row) == [
        *range(len(lengths))
    ]
    for width, of_width in rows.items():
        for row in of_width:
            assert sum(lengths[text] for text in row) <= width
            assert 1 <= len(row) <= width // SHORTEST_TEXT
            assert min(found for found in widths if found >= max(lengths[text] for text in row)) == width


def test_rows_have_little_padding():
    lengths = np.random.default_rng(0).geometric(0.03, size=2000).clip(3, 512).tolist()
    rows = pack(lengths, widths_for(max(lengths), most=512))
    assert sum(lengths) / sum(width * len(of_width) for width, of_width in rows.items()) > 0.95


@pytest.mark.parametrize(
    ("longest", "most", "widths"),
    [(3, 512, [128]), (129, 512, [128, 256]), (512, 512, [128, 256, 512]), (300, 300, [128, 256, 384])],
)
def test_rows_have_few_widths(longest: int, most: int, widths: list[int]):
    assert widths_for(longest, most=most) == widths


# A run that was pretrained


def test_a_run_has_the_vectors_of_its_export(config: Config, tmp_path: Path):
    run = write_run(tmp_path / "run", config, spec_of(config))
    export(run, out=tmp_path / "exported")
    np.testing.assert_allclose(vectors_of(run), vectors_of(tmp_path / "exported"), atol=TOLERANCE)
