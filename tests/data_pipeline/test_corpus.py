"""Sources: the same documents whatever they are stored in; what cannot be read is named."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as implementations

from data_pipeline import corpus
from data_pipeline.corpus import Document, documents, in_validation, readers, zstd_module
from data_pipeline.errors import UserError

zstd = zstd_module()
TEXT = "The first line.\nThe second one.\n\n\n  Another document, with spaces around.  \nÅngström and 東京.\n"
LINES = [
    ["The first line.", "The second one."],
    ["Another document, with spaces around.", "Ångström and 東京."],
]


DAMAGED = bytearray(gzip.compress(" ".join(map(str, range(5000))).encode(), mtime=0))
DAMAGED[len(DAMAGED) // 2 : len(DAMAGED) // 2 + 50] = bytes(50)


def read(source: str) -> list[list[str]]:
    return [document.lines for document in documents(source)]


def test_text_files_plain_and_gzipped_in_the_order_of_their_names(tmp_path: Path):
    (tmp_path / "b.txt").write_text(TEXT)
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("Only this")  # no line end: the file ends the document
    assert read(f"files:{tmp_path}/*") == [["Only this"], *LINES]


def test_zstandard_files_of_one_frame_and_of_several(tmp_path: Path):
    (tmp_path / "a.txt.zst").write_bytes(zstd.compress(TEXT.encode()))
    halves = TEXT.encode()[:30], TEXT.encode()[30:]
    (tmp_path / "b.txt.zst").write_bytes(b"".join(map(zstd.compress, halves)))
    assert read(f"files:{tmp_path}/*.zst") == [*LINES, *LINES]


def test_a_glob_may_name_folders_and_go_down_into_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("x/one.txt", "x/deep/two.txt", "y/three.txt", "y/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(f"files:{tmp_path}/x/**/*.txt") == [["x/deep/two.txt"], ["x/one.txt"]]
    assert read(f"files:{tmp_path}/[xy]/*.txt") == [["x/one.txt"], ["y/three.txt"]]
    monkeypatch.chdir(tmp_path)
    assert read("files:x/*.txt") == read("files:x/one.txt") == [["x/one.txt"]]


class Bucket(MemoryFileSystem):
    """Files in memory in place of gs://."""

    protocol = "gs"
    store: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("gs://"))


def test_a_bucket_is_read_like_a_disk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(implementations, "gs", Bucket)
    files = Bucket()
    files.pipe("/corpora/texts/a.txt", TEXT.encode())
    files.pipe("/corpora/texts/b.txt.gz", gzip.compress(TEXT.encode()))
    files.pipe("/corpora/texts/c.txt.zst", zstd.compress(TEXT.encode()))
    files.pipe("/corpora/texts/d.jsonl", json.dumps({"text": "last"}).encode())
    assert read("files:gs://corpora/texts/*") == [*LINES * 3, ["last"]]
    assert read("files:gs://corpora/**/a.txt") == LINES
    with pytest.raises(UserError, match=r"gs://corpora/none/\*\.gz matches no file"):
        read("files:gs://corpora/none/*.gz")
    reader = readers("files:gs://corpora/texts/a.txt")[0]
    files.rm("/corpora/texts/a.txt")
    with pytest.raises(OSError, match=r"texts/a\.txt"):
        list(reader())


def test_a_source_is_read_in_parts_by_other_processes(tmp_path: Path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    parts = pickle.loads(pickle.dumps(readers(f"files:{tmp_path}/*.txt")))  # noqa: S301
    assert [[document.lines for document in part()] for part in parts] == [[["a"]], [["b"]], [["c"]]]


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


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_byte_order_marks_and_nuls_do_not_reach_the_tokenizer(tmp_path: Path, name: str):
    text = "first\x00line\nsecond"
    text = json.dumps({"text": text}) if name == "a.jsonl" else text
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read(f"files:{tmp_path}/{name}") == [["first line", "second"]]


def test_other_scripts_come_through_as_they_are(tmp_path: Path):
    """Normalization is the tokenizer's: composed and decomposed letters, right-to-left marks, all stay."""
    text = "שלום עולם\nمرحبا \u200fبالعالم\n東京タワー 한국어\nÅ Å ﬁ\n👩‍👩‍👧"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert read(f"files:{tmp_path}/a.txt") == [text.split("\n")]


@pytest.fixture
def tfds_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """small_texts: a split `test` of two documents in the feature `text`, `title` and `number` beside it."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    texts = ["\n".join(lines) for lines in LINES]
    rows = {"text": texts, "title": ["one", "two"], "number": [1, 2]}
    features = {"text": tfds.features.Text(), "title": tfds.features.Text(), "number": tf.int64}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="small_texts",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"test": tf.data.Dataset.from_tensor_slices(rows)},
        features=tfds.features.FeaturesDict(features),
    )
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # of the variable TFDS_DATA_DIR


@pytest.mark.usefixtures("tfds_dataset")
def test_a_tfds_dataset_is_read_by_name_split_and_feature():
    assert sorted(read("tfds:small_texts:test")) == sorted(LINES)
    assert sorted(read("tfds:small_texts:1.0.0:test[:100%]:title")) == [["one"], ["two"]]
    assert len(read("tfds:small_texts:test[:1]")) == 1


@pytest.mark.usefixtures("tfds_dataset")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:small_texts", "tfds:small_texts: .*train"),
        ("tfds:small_texts:test:body", "has no feature 'body'; it has number, text, title"),
        ("tfds:small_texts:test:number", "the feature 'number' is not text"),
        ("tfds::test", "is not of the form tfds:NAME"),
    ],
)
def test_what_a_tfds_dataset_lacks_is_named(source: str, message: str):
    with pytest.raises(ValueError, match=message):
        read(source)


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


def test_a_huge_document_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT", 100)
    lines = [f"This is line number {i}." for i in range(50)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    parts = read(f"files:{tmp_path}/a.txt")
    assert len(parts) > 5
    assert [line for part in parts for line in part] == lines


def test_equal_documents_have_equal_keys(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n\none\ntwo\n\none two\n")
    keys = [document.key for document in documents(f"files:{tmp_path}/a.txt")]
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3
    assert all(0 <= key < 2**corpus.KEY_BITS for key in keys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\nnot \xff fine\n", r"a\.txt, line 2: not valid UTF-8"),
        ("a.txt", b"cut in a character \xe2\x82", r"a\.txt, line 1: not valid UTF-8"),
        ("a.txt.gz", DAMAGED, r"a\.txt\.gz: not a whole compressed file"),
        ("a.txt.gz", b"not gzip at all", r"a\.txt\.gz: not a whole compressed file"),
        (
            "a.txt.gz",
            gzip.compress(b"text " * 10_000, mtime=0)[:-20],
            r"a\.txt\.gz: not a whole compressed file",
        ),
        ("a.txt.zst", zstd.compress(b"text " * 10_000)[:-5], r"a\.txt\.zst: not a whole compressed file"),
        ("a.txt.zst", b"not zstandard", r"a\.txt\.zst: not a whole compressed file"),
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
    stream = [Document(random.Random(i).getrandbits(63), ["text"]) for i in range(10_000)]
    held_out = [in_validation(document, fraction=0.1, seed=0) for document in stream]
    assert abs(sum(held_out) - 1000) < 5 * 30  # five standard deviations
    other = [in_validation(document, fraction=0.1, seed=1) for document in stream]
    assert sum(a and b for a, b in zip(held_out, other, strict=True)) < 200
    assert not any(in_validation(document, fraction=0.0, seed=0) for document in stream)
