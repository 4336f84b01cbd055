"""Sources: the same documents whatever they are stored in; what cannot be read is named."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from data_pipeline import corpus
from data_pipeline.corpus import Document, blocks, documents, in_validation

TEXT = "The first line.\nThe second one.\n\n\n  Another document, with spaces around.  \nÅngström and 東京.\n"
LINES = [
    ["The first line.", "The second one."],
    ["Another document, with spaces around.", "Ångström and 東京."],
]


DAMAGED = bytearray(gzip.compress(" ".join(map(str, range(5000))).encode()))
DAMAGED[len(DAMAGED) // 2 : len(DAMAGED) // 2 + 50] = bytes(50)


def read(source: str) -> list[list[str]]:
    return [document.lines for document in documents(source)]


def test_text_files_plain_and_gzipped_in_the_order_of_their_names(tmp_path: Path):
    (tmp_path / "b.txt").write_text(TEXT)
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("Only this")  # no line end: the file ends the document
    assert read(f"files:{tmp_path}/*") == [["Only this"], *LINES]


def test_windows_line_ends_and_lines_of_spaces_end_documents(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n \t\r\nthree\r\n")
    assert read(f"files:{tmp_path}/a.txt") == [["one", "two"], ["three"]]


def test_json_lines_hold_a_document_each(tmp_path: Path):
    records = [{"text": "\n".join(lines), "id": i} for i, lines in enumerate(LINES)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    assert read(f"files:{tmp_path}/*.jsonl.gz") == LINES


def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(r'{"text": "broken \ud83d here, whole \ud83d\ude42 here"}')
    assert read(f"files:{tmp_path}/a.jsonl") == [["broken \ufffd here, whole 🙂 here"]]


def test_a_tfds_dataset_is_read_by_name_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    texts = ["\n".join(lines) for lines in LINES]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="small_texts",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"test": tf.data.Dataset.from_tensor_slices({"text": texts})},
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
    )
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # of the variable TFDS_DATA_DIR
    assert sorted(read("tfds:small_texts:test")) == sorted(LINES)
    with pytest.raises(ValueError, match="tfds:small_texts:train"):
        read("tfds:small_texts:train")


def test_the_python_docs_are_megabytes_of_english():
    lines = [line for document in documents("builtin:python-docs") for line in document.lines]
    assert sum(map(len, lines)) > 1_000_000
    assert any("The return statement" in line or "return" in line.split() for line in lines)


@pytest.mark.parametrize("character", ["x", "é", "東", "🙂"])
def test_a_huge_line_comes_in_pieces_with_no_character_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str
):
    monkeypatch.setattr(corpus, "MAX_LINE", 101)
    text = character * 1000
    (tmp_path / "a.txt").write_text(f"{text}\nnext line\n\nnext document", encoding="utf-8")
    first, second = read(f"files:{tmp_path}/a.txt")
    assert "".join(first[:-1]) == text
    assert first[-1] == "next line"
    assert max(map(len, first)) <= 101
    assert second == ["next document"]


def test_spaces_inside_a_huge_line_do_not_end_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "MAX_LINE", 10)
    (tmp_path / "a.txt").write_text("word" + " " * 96 + "word\nnext")
    assert read(f"files:{tmp_path}/a.txt") == [["word", "word", "next"]]


def test_a_file_larger_than_memory_would_like_is_streamed(tmp_path: Path):
    """50 MB in one line of one document."""
    with (tmp_path / "a.txt").open("w") as file:
        for _ in range(50):
            file.write("word " * 200_000)
    tracemalloc.start()
    size = sum(len(line) for document in documents(f"files:{tmp_path}/a.txt") for line in document.lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 45_000_000
    assert peak < 10_000_000


def test_a_huge_document_comes_in_parts_with_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT", 100)
    lines = [f"This is line number {i}." for i in range(50)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    parts = list(documents(f"files:{tmp_path}/a.txt"))
    assert len(parts) > 5
    assert len({part.key for part in parts}) == 1
    assert [line for part in parts for line in part.lines] == lines


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nnot \xff fine\n", r"a\.txt, line 2: not valid UTF-8"),
        ("a.txt", b"cut in a character \xe2\x82", r"a\.txt, line 1: not valid UTF-8"),
        ("a.txt", b"\n \n\n", "has no text in it"),
        ("a.txt.gz", DAMAGED, r"a\.txt\.gz: not a whole gzip file"),
        ("a.txt.gz", b"not gzip at all", r"a\.txt\.gz: not a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"text " * 10_000)[:-20], r"a\.txt\.gz: not a whole gzip file"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": ', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"body": "no text"}\n', r"a\.jsonl, line 1: has no string field `text`"),
        ("a.csv", b"text", r"must end in \.txt"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(f"files:{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("files:/nowhere/*.txt", "matches no file"),
        ("wikipedia", "is unknown; use files:"),
        ("builtin:c-docs", "is unknown; use files:"),
        ("tfds:no_such_dataset", "tfds:no_such_dataset"),
    ],
)
def test_a_source_that_does_not_exist_is_named(source: str, message: str):
    with pytest.raises(ValueError, match=message):
        read(source)


def test_the_validation_split_is_by_document_and_near_its_fraction():
    stream = [Document(f"document {i}".encode(), ["text"]) for i in range(10_000)]
    held_out = [in_validation(document, fraction=0.1, seed=0) for document in stream]
    assert abs(sum(held_out) - 1000) < 5 * 30  # five standard deviations
    other = [in_validation(document, fraction=0.1, seed=1) for document in stream]
    assert sum(a and b for a, b in zip(held_out, other, strict=True)) < 200
    assert not any(in_validation(document, fraction=0.0, seed=0) for document in stream)


def test_blocks_keep_every_document_in_order():
    stream = [Document(b"", ["x" * 30]) for _ in range(100)]
    grouped = list(blocks(stream, characters=100))
    assert [document for block in grouped for document in block] == stream
    assert {len(block) for block in grouped} == {4}
