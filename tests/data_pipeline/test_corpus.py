"""Sources: the same documents whatever they are stored in; what cannot be read is named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as implementations
from pyarrow import parquet

from data_pipeline import corpus
from data_pipeline.compression import zstd_module
from data_pipeline.corpus import Document, documents, in_validation, readers
from data_pipeline.errors import UserError

zstd = zstd_module()
TEXT = "The first line.\nThe second one.\n\n\n  Another document, with spaces around.  \nÅngström and 東京.\n"
LINES = [
    ["The first line.", "The second one."],
    ["Another document, with spaces around.", "Ångström and 東京."],
]


DAMAGED = bytearray(gzip.compress(" ".join(map(str, range(5000))).encode(), mtime=0))
DAMAGED[len(DAMAGED) // 2 : len(DAMAGED) // 2 + 50] = bytes(50)


def read(source: str, **arguments: str) -> list[list[str]]:
    return [document.lines for document in documents(source, **arguments)]


def write_parquet(path: Path, column: Any, *, name: str = "text", **arguments: Any) -> None:
    parquet.write_table(pyarrow.table({"id": range(len(column)), name: column}), path, **arguments)


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


@pytest.mark.parametrize("name", ["A.TXT", "a.txt.bz2", "a.txt.xz", "a.TXT.GZ", "a.Txt.Bz2", "a.txt.XZ"])
def test_other_packings_and_large_letters(tmp_path: Path, name: str):
    pack = {"z2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}.get(name.lower()[-2:], bytes)
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    assert read(f"files:{tmp_path}/*") == LINES


def test_a_packed_file_of_several_parts_is_read_to_its_end(tmp_path: Path):
    """As parallel packers make them."""
    for name, pack in ("a.txt.bz2", bz2.compress), ("b.txt.xz", lzma.compress), ("c.txt.gz", gzip.compress):
        (tmp_path / name).write_bytes(pack(TEXT.encode()[:30]) + pack(TEXT.encode()[30:]))
    assert read(f"files:{tmp_path}/*") == 3 * LINES


def test_zeros_between_the_parts_of_an_xz_are_padding(tmp_path: Path):
    packed = lzma.compress(f"{TEXT}\n\n".encode())
    (tmp_path / "a.txt.xz").write_bytes(bytes(4) + packed + bytes(8) + packed + bytes(70_000))
    assert read(f"files:{tmp_path}/*") == 2 * LINES


@pytest.mark.parametrize(("name", "pack"), [("a.txt.bz2", bz2.compress), ("a.txt.xz", lzma.compress)])
def test_a_part_that_is_damaged_does_not_end_a_file(tmp_path: Path, name: str, pack: Any):
    """As bz2.open and lzma.open would have it."""
    part = pack(TEXT.encode())
    (tmp_path / name).write_bytes(part + b"X" + part[1:] + part)
    with pytest.raises(ValueError, match="not a whole compressed file"):
        read(f"files:{tmp_path}/*")


# Parquet


def test_a_row_of_parquet_is_a_document_of_whatever_type_its_text_is(tmp_path: Path):
    texts = ["\n".join(lines) for lines in LINES]
    raw = [text.encode() for text in texts]
    columns = [
        *(pyarrow.array(texts, kind) for kind in (pyarrow.string(), pyarrow.large_string())),
        *(pyarrow.array(raw, kind) for kind in (pyarrow.binary(), pyarrow.large_binary())),
        pyarrow.array(texts).dictionary_encode(),
        pyarrow.array([line.ljust(max(map(len, raw))) for line in raw], pyarrow.binary(max(map(len, raw)))),
    ]
    for number, column in enumerate(columns):
        write_parquet(tmp_path / f"{number}.parquet", column)
    write_parquet(tmp_path / "6.PARQUET", columns[0], compression="zstd", row_group_size=1)
    assert read(f"files:{tmp_path}/*") == 7 * LINES


def test_parquet_is_read_from_a_bucket_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(implementations, "gs", Bucket)
    write_parquet(tmp_path / "a.parquet", ["one", "two"])
    Bucket().pipe("/corpora/parquet/a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert read("files:gs://corpora/parquet/*.parquet") == [["one"], ["two"]]


def test_a_row_group_larger_than_memory_would_like_is_streamed(tmp_path: Path):
    """60 MB in one row group."""
    text = " ".join(map(str, range(2_000)))
    write_parquet(tmp_path / "a.parquet", [f"{number} {text}" for number in range(6_500)])
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    before = pyarrow.total_allocated_bytes()
    peak = 0
    for count, document in enumerate(documents(f"files:{tmp_path}/a.parquet")):
        assert document.lines[0].startswith(f"{count} ")
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
    assert count == 6_499
    assert peak < 30_000_000


# Which field is the text, and what is none


FIELD_FILES = ["a.jsonl", "a.jsonl.bz2", "a.parquet"]


def write_records(path: Path, texts: list[str | None], *, name: str) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, pyarrow.array(texts, pyarrow.string()), name=name)
        return
    raw = "".join(json.dumps({"id": 1, name: text}) + "\n" for text in texts).encode()
    path.write_bytes(bz2.compress(raw) if path.suffix == ".bz2" else raw)


@pytest.mark.parametrize("file", FIELD_FILES)
@pytest.mark.parametrize("field", ["content", "body", "Text of the page"])
def test_the_text_may_be_in_any_field(tmp_path: Path, file: str, field: str):
    write_records(tmp_path / file, ["one", "two"], name=field)
    assert read(f"files:{tmp_path}/{file}", text_field=field) == [["one"], ["two"]]
    message = rf"{file}.* has no .*'text'; it has id, {field}: choose one with --data\.text-field"
    with pytest.raises(UserError, match=message):
        read(f"files:{tmp_path}/{file}")


@pytest.mark.parametrize("file", FIELD_FILES)
def test_a_text_that_is_null_or_empty_is_no_document_but_counts(tmp_path: Path, file: str):
    write_records(tmp_path / file, ["one", None, "", " \n\t\r\n", "two"], name="text")
    (reader,) = readers(f"files:{tmp_path}/{file}")
    assert [document.lines for document in reader()] == [["one"], [], [], [], ["two"]]
    assert read(f"files:{tmp_path}/{file}") == [["one"], ["two"]]


def test_what_pandas_writes_for_a_missing_text_is_null(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": NaN}\n{"text": "one"}')
    assert read(f"files:{tmp_path}/a.jsonl") == [["one"]]


def test_a_column_of_nothing_but_nulls_has_no_text(tmp_path: Path):
    write_parquet(tmp_path / "a.parquet", pyarrow.nulls(3))
    assert read(f"files:{tmp_path}/a.parquet") == []


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


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_old_mac_line_ends_are_line_ends(tmp_path: Path, packing: str):
    """And documents end as they do elsewhere; a record of JSON too."""
    pack = gzip.compress if packing else bytes
    (tmp_path / f"a.txt{packing}").write_bytes(pack(b"one\rtwo\r\rthree\r"))
    assert read(f"files:{tmp_path}/a.txt{packing}") == [["one", "two"], ["three"]]
    (tmp_path / f"a.jsonl{packing}").write_bytes(pack(b'{"text": "one\\rtwo"}\r{"text": "three"}\r'))
    assert read(f"files:{tmp_path}/a.jsonl{packing}") == [["one", "two"], ["three"]]


def test_line_ends_of_several_machines_are_line_ends(tmp_path: Path):
    """Lines that were converted twice end with two carriage returns: they are lines of one document."""
    (tmp_path / "a.txt").write_bytes(b"one\r\r\ntwo\rhalves\r\n\r\nthree")
    assert read(f"files:{tmp_path}/a.txt") == [["one", "two", "halves"], ["three"]]
    (tmp_path / "a.txt").write_bytes(b"a single line\r")
    assert read(f"files:{tmp_path}/a.txt") == [["a single line"]]
    (tmp_path / "a.txt").write_bytes(b"\r" * 100_000 + b"\r\none\rtwo\r\rthree\n")
    assert read(f"files:{tmp_path}/a.txt") == [["one", "two"], ["three"]]
    write_records(tmp_path / "a.jsonl", ["one\r\r\ntwo\rhalves\nthree"], name="text")
    assert read(f"files:{tmp_path}/a.jsonl") == [["one", "two", "halves", "three"]]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
def test_line_ends_are_found_wherever_a_read_begins(tmp_path: Path, end: bytes):
    """In paragraphs longer than any buffer, with and without a newline at the end of the file."""
    paragraphs = [b"x" * length for length in (4095, 4096, 65_534, 65_535, 65_536, 99_999, 1)]
    for last in b"", b"\n", end:
        (tmp_path / "a.txt").write_bytes((end * 2).join(paragraphs) + last)
        found = read(f"files:{tmp_path}/a.txt")
        assert [list(map(len, lines)) for lines in found] == [[len(text)] for text in paragraphs]


def test_an_old_mac_file_of_many_parts_is_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "MAX_LINE", 64)
    lines = [f"line number {number}" for number in range(1000)]
    (tmp_path / "a.txt").write_bytes("\r".join(lines).encode())
    assert read(f"files:{tmp_path}/a.txt") == [lines]


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


@pytest.mark.long
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
        ("a.txt", b"fine\nnot \xff fine\n", r"a\.txt line 2: not valid UTF-8"),
        ("a.txt", b"cut in a character \xe2\x82", r"a\.txt line 1: not valid UTF-8"),
        ("a.txt.gz", DAMAGED, r"a\.txt\.gz: not a whole compressed file"),
        ("a.txt.gz", b"not gzip at all", r"a\.txt\.gz: not a whole compressed file"),
        (
            "a.txt.gz",
            gzip.compress(b"text " * 10_000, mtime=0)[:-20],
            r"a\.txt\.gz: not a whole compressed file",
        ),
        ("a.txt.zst", zstd.compress(b"text " * 10_000)[:-5], r"a\.txt\.zst: not a whole compressed file"),
        ("a.txt.zst", b"not zstandard", r"a\.txt\.zst: not a whole compressed file"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": ', r"a\.jsonl line 2: not JSON"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": 5}', r"a\.jsonl line 2: the field 'text' is 5, not a text"),
        ("a.jsonl", b'{"text": ["a"]}', r"a\.jsonl line 1: the field 'text' is \['a'\], not a text"),
        ("a.jsonl", b"null\n", r"a\.jsonl line 1 has no field 'text'"),
        ("a.jsonl", b"{}\n", r"a\.jsonl line 1 has no field 'text'; it has none: choose"),
        ("a.txt", "The first line.".encode("utf-16-le"), r"a\.txt line 1: not UTF-8, but UTF-16"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl line 1: not JSON"),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", r"a\.jsonl line 1: not JSON"),
        ("a.txt.bz2", bz2.compress(b"text " * 10_000)[:-20], r"a\.txt\.bz2: not a whole compressed file"),
        ("a.txt.bz2", b"not bzip2", r"a\.txt\.bz2: not a whole compressed file"),
        ("a.txt.xz", lzma.compress(b"text " * 10_000)[:-20], r"a\.txt\.xz: not a whole compressed file"),
        ("a.txt.xz", b"not xz", r"a\.txt\.xz: not a whole compressed file"),
        ("a.parquet", b"PAR1 not parquet", r"a\.parquet: not a whole Parquet file"),
        ("a.parquet", b"", r"a\.parquet: not a whole Parquet file"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz: the name must end in \.txt"),
        ("a.csv", b"text", r"must end in \.txt or \.jsonl, with \.gz, \.bz2, \.xz, \.zst after it"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(f"files:{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pyarrow.array([1, 2]), "the column 'text' is of the type int64, not text"),
        (pyarrow.array([["a"], ["b"]]), "the column 'text' is of the type list"),
        (pyarrow.array([b"fine", b"\xff"]), r"a\.parquet, row 2: not valid UTF-8"),
    ],
)
def test_what_is_no_text_in_parquet_is_named(tmp_path: Path, column: Any, message: str):
    write_parquet(tmp_path / "a.parquet", column)
    with pytest.raises(UserError, match=message):
        read(f"files:{tmp_path}/a.parquet")


def test_parquet_wants_its_extra_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_parquet(tmp_path / "a.parquet", ["one"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'bert-jax\[parquet\]'"):
        readers(f"files:{tmp_path}/a.parquet")


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
