"""Files and TFDS to records: every cell as it is written; what is wrong with one is said with its row."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from bert_jax.tasks import records
from tests.helpers.examples import write

FORMATS = {".tsv": records.tsv, ".csv": records.csv_table, ".jsonl": records.json_lines}


def read(source: str, *columns: str, label: str | None = None) -> list[records.Record]:
    return records.read(source, FORMATS, kind="classification", columns=columns, label=label)


def cells(source: str) -> list[dict]:
    return [record for _, record in read(source)]


# Files


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2", ".XZ", ".zst"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\tlabel\tsentence\n0\t1\ta fine film\n1\t0\tno film\n"),
        ("a.csv", "id,label,sentence\n0,1,a fine film\n1,0,no film\n"),
        (
            "a.jsonl",
            '{"sentence": "a fine film", "label": "1", "id": "0"}\n'
            '{"sentence": "no film", "label": "0", "id": "1"}\n',
        ),
    ],
)
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, name: str, content: str, packing: str):
    assert cells(write(tmp_path, name + packing, content)) == [
        {"id": "0", "label": "1", "sentence": "a fine film"},
        {"id": "1", "label": "0", "sentence": "no film"},
    ]


def test_a_record_says_where_it_is_by_its_row_in_a_table_and_by_its_line_elsewhere(tmp_path: Path):
    table = write(tmp_path, "a.tsv", "sentence\tlabel\none\t1\ntwo\t0\n")
    assert [where for where, _ in read(table)] == [f"{table} row 1", f"{table} row 2"]
    lines = write(tmp_path, "a.jsonl", '{"sentence": "one"}\n\n{"sentence": "two"}\n')
    assert [where for where, record in read(lines) if record] == [f"{lines} line 1", f"{lines} line 3"]


def test_a_quote_is_a_character_of_a_tsv_and_encloses_a_cell_of_a_csv(tmp_path: Path):
    assert cells(write(tmp_path, "a.tsv", 'a\tb\n"one\t"two, ""three"""\n')) == [
        {"a": '"one', "b": '"two, ""three"""'}
    ]
    assert cells(write(tmp_path, "a.csv", 'a,b\none,"two, ""three"""\n')) == [
        {"a": "one", "b": 'two, "three"'}
    ]


def test_a_quoted_csv_cell_may_hold_line_ends_and_counts_as_one_row(tmp_path: Path):
    path = write(tmp_path, "a.csv", 'sentence,label\n"first line\nsecond, ""quoted""",1\nplain,0\n')
    assert read(path) == [
        (f"{path} row 1", {"sentence": 'first line\nsecond, "quoted"', "label": "1"}),
        (f"{path} row 2", {"sentence": "plain", "label": "0"}),
    ]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_byte_order_marks_windows_line_ends_and_empty_lines_at_the_end(tmp_path: Path, name: str):
    content = {
        "a.tsv": "sentence\tlabel\none\t1\ntwo\t0\n\n",
        "a.csv": "sentence,label\none,1\ntwo,0\n\n",
        "a.jsonl": '{"sentence": "one", "label": "1"}\n{"sentence": "two", "label": "0"}\n\n',
    }[name]
    path = write(tmp_path, name, b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    assert cells(path) == [{"sentence": "one", "label": "1"}, {"sentence": "two", "label": "0"}]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "A.CSV", "a.Tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_lines_end_as_they_do_on_any_machine(tmp_path: Path, name: str, end: str):
    """Those of an old Mac, and of a file that was converted twice, among them."""
    content = {
        "a.tsv": "sentence\tlabel\none\t1\ntwo\t0\n",
        "a.csv": 'sentence,label\n"one",1\ntwo,"0"\n',
        "a.jsonl": '{"sentence": "one", "label": "1"}\n{"sentence": "two", "label": "0"}\n',
    }[name.lower()]
    path = write(tmp_path, name, content.replace("\n", end).encode())
    assert cells(path) == [{"sentence": "one", "label": "1"}, {"sentence": "two", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "sentence\tlabel\none\rword\t1\ntwo\r\t0\n"),
        ("a.csv", "sentence,label\none\rword,1\ntwo\r,0\n"),
        ("b.csv", 'sentence,label\r\n"one\rword",1\r\n"two\r",0\r\n'),
    ],
)
def test_a_stray_carriage_return_is_white_space_in_its_cell(tmp_path: Path, name: str, content: str):
    assert cells(write(tmp_path, name, content.encode())) == [
        {"sentence": "one word", "label": "1"},
        {"sentence": "two ", "label": "0"},
    ]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_cell_is_as_long_as_its_text(tmp_path: Path, name: str):
    """csv of Python has a limit of 131,072 characters."""
    text = "long words " * 30_000
    content = {
        "a.tsv": f"sentence\tlabel\n{text}\t1\n",
        "a.csv": f"sentence,label\n{text},1\n",
        "a.jsonl": json.dumps({"sentence": text, "label": "1"}),
    }[name]
    assert cells(write(tmp_path, name, content)) == [{"sentence": text, "label": "1"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "sentence\tlabel\n\none\t1\n \n\n\ntwo\t0\n\n"),
        ("a.csv", "sentence,label\r\none,1\r\n\r\n  \r\ntwo,0\r\n\r\n"),
        ("b.csv", "sentence,label\none,1\n,\n , \ntwo,0\n,\n,\n"),  # as spreadsheets have it
        ("b.tsv", "sentence\tlabel\none\t1\n\t\ntwo\t0\n\t\n"),
    ],
)
def test_rows_with_nothing_in_them_are_left_out(tmp_path: Path, name: str, content: str):
    path = write(tmp_path, name, content.encode())
    found = [*records.filled(read(path))]
    assert [record for _, record in found] == [
        {"sentence": "one", "label": "1"},
        {"sentence": "two", "label": "0"},
    ]
    first, last = (int(where.rpartition(" ")[2]) for where, _ in found)
    assert last > first + 1, "rows are counted as an editor counts lines"


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_the_header_is_the_first_row_with_something_in_it(tmp_path: Path, name: str):
    content = "\n \nsentence,label,, \none,1\ntwo,0, ,,,\n,,,\n"
    path = write(tmp_path, name, content.replace(",", "," if name == "a.csv" else "\t"))
    assert cells(path) == [{"sentence": "one", "label": "1"}, {"sentence": "two", "label": "0"}]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"one\rtwo\r", ["one", "two"]),
        (b"one\r\rtwo\r\n", ["one", "", "two"]),
        (b"one\rword\ntwo", ["one word", "two"]),
        (b"one\n\rtwo\n", ["one", " two"]),
        (b"\xef\xbb\xbfone\r", ["one"]),
        (b"\n", [""]),
        (b"", []),
    ],
)
def test_standard_input_has_the_lines_of_a_file(raw: bytes, expected: list[str]):
    found = records.texts(records.STDIN, records.decoded(io.BytesIO(raw), records.STDIN), "text")
    assert [record["text"] for _, record in found] == expected


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"a\.tsv"):
        read(str(tmp_path / "a.tsv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,label\none,1\n", r"a\.csv header names a column twice: label, label"),
        ("a.tsv", "sentence\tlabel\none\t1\ntwo\n", r"a\.tsv row 2: a row of 1 where the header has 2"),
        ("a.tsv", "sentence\tlabel\none\ttwo\t1\n", r"a\.tsv row 1: a row of 3 where the header has 2"),
        ("a.csv", "sentence,label\none,two,1\n", r"a\.csv row 1: a row of 3 where the header has 2"),
        ("a.csv", "sentence,label\none,1\n\ntwo\n", r"a\.csv row 3: a row of 1 where the header has 2"),
        ("a.csv", 'sentence,label\none,1\n"two,0\nthree,1\n', r"a\.csv row 2 cannot be read: unexpected end"),
        ("a.csv", '"sentence,label\none,1\n', r"a\.csv header cannot be read: unexpected end"),
        ("a.jsonl", '{"sentence": "one", "label": 1}\n[1]', r"a\.jsonl line 2: not a JSON object$"),
        ("a.jsonl", '{"sentence": "one", "label": 1}\n{"se', r"a\.jsonl line 2: not JSON \(Unterminated"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl line 1: not JSON"),
        ("a.jsonl", '{"sentence": "one", "label": ' + "1" * 5000 + "}", r"a\.jsonl line 1: not JSON"),
        ("a.tsv", b"sentence\tlabel\none\t1\n\xff\t1\n", r"a\.tsv line 3: not valid UTF-8"),
        ("a.csv", b"sentence,label\none,1\n\xff,1\n", r"a\.csv line 3: not valid UTF-8"),
        ("a.jsonl", '{"sentence": "one"}'.encode("utf-16"), r"a\.jsonl line 1: not valid UTF-8"),
        ("a.tsv.gz", b"not gzip", r"a\.tsv\.gz: not a whole compressed file"),
        (
            "a.tsv.gz",
            gzip.compress(b"sentence\tlabel\none\t1\n", mtime=0)[:-9],
            r"a\.tsv\.gz: not a whole compressed file",
        ),
        (
            "a.tsv.gz",
            gzip.compress(b"one\t1\n" * 99, mtime=0)[:12] + bytes(9),
            r"a\.tsv\.gz: not a whole compressed file",
        ),
        ("a.tsv.bz2", b"not bzip2", r"a\.tsv\.bz2: not a whole compressed file"),
        ("a.tsv.xz", b"not xz", r"a\.tsv\.xz: not a whole compressed file"),
        ("a.tsv.zst", b"not zstandard", r"a\.tsv\.zst: not a whole compressed file"),
        ("a.csv", "sentence,label,\none,1,two\n", r"a\.csv row 1: a row of 3 where the header has 2"),
        ("a.tsv", "", r"a\.tsv has no examples"),
        ("a.jsonl", "\n{}\n", r"a\.jsonl has no examples"),
        ("b.tsv", "sentence\tlabel\n\n\t\n", r"b\.tsv has no examples"),
        ("a.csv", "sentence,label\n", r"a\.csv has no examples"),
        ("a.jsonl", "\n\n", r"a\.jsonl has no examples"),
        (
            "a.txt",
            "one\n",
            r"a\.txt' is no source of classification examples; files are \.tsv, \.csv, \.jsonl, each",
        ),
        ("a.conll", "one 1\n", r"a\.conll' is no source of classification examples; .* tfds:NAME:SPLIT"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_row(
    tmp_path: Path, name: str, content: str | bytes, message: str
):
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path, name, content))
    assert "\n" not in str(error.value)


# Lines of standard input


def test_lines_are_decoded_one_after_the_other():
    lines = iter([b"\xef\xbb\xbfone\n", b"tw\xc3\xb6", b"\xff", b"four"])
    decoded = records.decoded(lines, records.STDIN)
    assert [next(decoded), next(decoded)] == ["one\n", "twö"]
    with pytest.raises(ValueError, match=r"^standard input line 3: not valid UTF-8"):
        next(decoded)
    assert next(lines) == b"four", "what was not asked for was not read"


def test_a_line_that_is_no_object_is_told_what_the_model_wants():
    found = records.json_objects(records.STDIN, ['{"a": 1}\n', "\n", "why?\n"], wanted=("a", "b"))
    assert [next(found) for _ in range(2)] == [
        ("standard input line 1", {"a": 1}),
        ("standard input line 2", {}),
    ]
    with pytest.raises(
        ValueError, match=r'line 3: not JSON .*; the model wants an object a line, \{"a": "...", "b": "..."\}'
    ):
        next(found)


# TFDS


def test_tfds_gives_plain_values_and_the_names_of_labels(small_reviews: str):
    source = f"{small_reviews}:train"
    assert read(source, "sentence", "label", "score", label="label") == [
        (
            f"{source} record 1",
            {"sentence": "no film 😭", "label": "bad", "score": 0.5, "year": None, "raw": None},
        ),
        (
            f"{source} record 2",
            {"sentence": "a fine film", "label": "good", "score": 4.5, "year": None, "raw": None},
        ),
    ]
    assert json.dumps(read(source, "score", "year"))
    assert len(read("tfds:small_reviews:1.0.0:train[:50%]", "sentence")) == 1
    assert len(read(f"{small_reviews}:test", "sentence")) == 1, "labels that are not asked for may be unknown"


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        ("tfds:small_reviews:test", ["label"], r"test record 1: the label is -1, which stands for none"),
        ("tfds:small_reviews:train", ["raw"], r"train record 1: not valid UTF-8"),
        ("tfds:small_reviews:dev", [], r"tfds:small_reviews:dev: .*dev"),
        ("tfds:small_reviews:train[:0]", [], r"train\[:0\]: .* no data"),
        ("tfds:small_reviews", [], r"is not of the form tfds:NAME:SPLIT"),
        ("tfds:no_such_dataset:train", [], r"tfds:no_such_dataset:train: "),
    ],
)
@pytest.mark.usefixtures("small_reviews")
def test_what_a_tfds_dataset_lacks_is_named(source: str, columns: list[str], message: str):
    with pytest.raises(ValueError, match=message) as error:
        read(source, *columns, label="label")
    assert "\n" not in str(error.value)
