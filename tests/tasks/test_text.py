"""Texts and pairs of them, as classification and regression have them: from every source to their rows."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import ClassificationConfig, MultiLabelConfig, RegressionConfig, TextTaskConfig
from bert_jax.tasks import classification, multi_label, regression, task_of
from bert_jax.tasks.features import Features
from bert_jax.tasks.text import Text
from tests.helpers.examples import assert_theirs, features_of, pieces, text, texts, theirs, write
from tests.helpers.paths import SHARED_DATA

CLASSES, NUMBERS = ClassificationConfig(), RegressionConfig()
PAIRS = ClassificationConfig(text="question1", pair="question2", label="same")

AWKWARD = [
    'She said "no", twice',
    '"a quote that never ends',
    "tears 😭 and a family 👩‍👩‍👧",
    "e\u0301 composed of two, é of one",
    "한국어 and 東京, \u200fright to left\u200e",
    "  spaces around  ",
    "no-break\u00a0space",
]


def columns(examples: Sequence[Text]) -> list[tuple[str, str | None, str | float | None]]:
    return [(example.text, example.pair, example.label) for example in examples]


# Files


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\tlabel\tsentence\n0\t1\ta fine film\n1\t0\tno film\n"),
        ("a.csv", "id,label,sentence\n0,1,a fine film\n1,0,no film\n"),
        (
            "a.jsonl",
            '{"sentence": "a fine film", "label": "1"}\n{"sentence": "no film", "label": 0, "id": 1}\n',
        ),
    ],
)
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, name: str, content: str, packing: str):
    path = write(tmp_path, name + packing, content)
    assert columns(classification.read(path, CLASSES)) == [("a fine film", None, "1"), ("no film", None, "0")]
    assert columns(regression.read(path, NUMBERS)) == [("a fine film", None, 1.0), ("no film", None, 0.0)]


def test_an_example_says_where_it_is(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "sentence\tlabel\none\t1\ntwo\t0\n")
    assert classification.read(path, CLASSES) == [
        Text(f"{path} row 1", "one", None, "1"),
        Text(f"{path} row 2", "two", None, "0"),
    ]


def test_a_pair_of_texts_has_a_column_each(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "question1\tquestion2\tsame\nHow?\tHow so?\tyes\n")
    assert columns(classification.read(path, PAIRS)) == [("How?", "How so?", "yes")]


def test_texts_come_through_as_they_are(tmp_path: Path):
    def read_back(path: str) -> list[str]:
        return [example.text for example in classification.read(path, CLASSES)]

    rows = [f"{text}\t1" for text in AWKWARD]
    assert read_back(write(tmp_path, "a.tsv", "\n".join(["sentence\tlabel", *rows]))) == AWKWARD
    rows = [json.dumps({"sentence": text, "label": 1}) for text in AWKWARD]
    assert read_back(write(tmp_path, "a.jsonl", "\n".join(rows))) == AWKWARD
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence", "label"), *((text, 1) for text in AWKWARD)])
    assert read_back(str(tmp_path / "a.csv")) == AWKWARD


def test_half_a_surrogate_pair_and_nuls_do_not_reach_the_tokenizer(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", r'{"sentence": "half \ud83d, nul \u0000.", "label": 1}')
    assert columns(classification.read(path, CLASSES)) == [("half \ufffd, nul  .", None, "1")]


def test_to_predict_no_labels_are_needed_nor_looked_at(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "sentence\none\ntwo\n")
    assert columns(classification.read(path, CLASSES, labelled=False)) == [
        ("one", None, None),
        ("two", None, None),
    ]
    path = write(tmp_path, "b.tsv", "sentence\tlabel\none\t\n")
    assert columns(regression.read(path, NUMBERS, labelled=False)) == [("one", None, None)]
    path = write(tmp_path, "a.txt.gz", 'one, "quoted"\n two\ttabs\n')
    examples = regression.read(path, RegressionConfig(text="anything"), labelled=False)
    assert [(example.where, example.text) for example in examples] == [
        (f"{path} line 1", 'one, "quoted"'),
        (f"{path} line 2", " two\ttabs"),
    ]


def test_the_real_sst2():
    """67,349 sentences, of which a tenth is set aside for validation; quotes in them are characters."""
    folder = SHARED_DATA / "sst2"
    if not folder.is_dir():
        pytest.skip("no SST-2 here")
    train = classification.read(str(folder / "train.tsv"), CLASSES)
    validation = classification.read(str(folder / "validation.tsv"), CLASSES)
    assert len(train) + len(validation) == 67_349
    assert Counter(example.label for example in [*train, *validation]) == {"1": 37_569, "0": 29_780}
    assert train[0] == Text(f"{folder / 'train.tsv'} row 1", "when are bears bears and ", None, "1")
    assert train[-1].where == f"{folder / 'train.tsv'} row {len(train)}"


# What is wrong


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tsv",
            "text\tlabel\none\t1\n",
            r"a\.tsv row 1 has no column 'sentence'; it has text, label.*--task\.text",
        ),
        (
            "a.csv",
            "sentence,stars\none,1\n",
            r"row 1 has no column 'label'; it has sentence, stars.*--task\.label",
        ),
        ("a.jsonl", '{"sentence": "one"}', r"a\.jsonl line 1 has no column 'label'; it has sentence"),
        ("a.tsv", "sentence\tlabel\n \t1\n", r"a\.tsv row 1: 'sentence' is empty"),
        ("a.jsonl", '{"sentence": null, "label": 1}', r"line 1: 'sentence' is empty"),
        ("a.csv", "sentence,label\n", r"a\.csv has no examples"),
        ("a.txt", "one\n", r"a\.txt' is no source of {kind} examples; files are \.tsv, \.csv, \.jsonl, each"),
    ],
)
@pytest.mark.parametrize("settings", [CLASSES, NUMBERS], ids=lambda settings: settings.kind)
def test_what_is_wrong_is_said_in_one_line_with_its_row(
    tmp_path: Path, settings: TextTaskConfig, name: str, content: str, message: str
):
    with pytest.raises(ValueError, match=message.replace("{kind}", settings.kind)) as error:
        task_of(settings).read(write(tmp_path, name, content), settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\ntwo\n\n"),
        ("b.txt", "one\r\rtwo\r"),
        ("a.tsv", "sentence\tlabel\none\t\n \t1\ntwo\t\n"),
        ("b.tsv", "sentence\none\n \ntwo\n\n\n"),
        ("a.csv", "sentence\none\n\ntwo\n"),
        ("b.csv", "sentence,id,,\none,1,,\n,,,\ntwo,2,,\n,,,\n,,,\n"),
        ("a.jsonl", '{"sentence": "one"}\n{"sentence": ""}\n{"sentence": "two"}'),
        ("b.jsonl", '{"sentence": "one"}\n{"sentence": null}\n{"sentence": "two"}\n'),
        ("c.jsonl", '{"sentence": "one"}\n{"id": 2}\n{"sentence": "two", "id": 3}\n\n\n'),
        ("d.jsonl", '{"sentence": "one"}\n \n{"sentence": "two"}\n{}\n'),
    ],
)
@pytest.mark.parametrize("settings", [CLASSES, NUMBERS], ids=lambda settings: settings.kind)
def test_an_empty_text_to_predict_has_a_place(
    tmp_path: Path, settings: TextTaskConfig, name: str, content: str
):
    """The predictions would not be beside their texts. What is empty at the end is nobody's."""
    one, empty, two = task_of(settings).read(write(tmp_path, name, content), settings, labelled=False)
    assert (one.text, two.text) == ("one", "two")
    assert empty.reason in (f"{empty.where}: 'sentence' is empty", f"{empty.where} is empty")
    assert empty.where.endswith(" 2")


def test_a_second_text_that_is_not_there_is_named(tmp_path: Path):
    path = write(tmp_path, "a.csv", "question1,same\nHow?,yes\n")
    with pytest.raises(
        ValueError, match=r"has no column 'question2'; it has question1, same; .*--task\.pair"
    ):
        classification.read(path, PAIRS)


def test_to_predict_another_column_is_chosen_by_a_flag_of_that_verb(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "text\nHow?\n")
    with pytest.raises(
        ValueError, match=r"'sentence'; it has text; choose one with --text, and a second text with --pair$"
    ):
        classification.read(path, CLASSES, labelled=False)


# Lines of standard input


def test_a_line_is_a_text_and_where_there_are_pairs_an_object():
    def typed(line: str, settings: ClassificationConfig) -> list[Text]:
        lines = [b"\xef\xbb\xbf" + line.encode() + b"\r\n"]
        return [*classification.read_stdin(lines, settings)]

    where = "standard input line 1"
    assert typed(' "one"\u2028two ', CLASSES) == [Text(where, ' "one"\u2028two ')]
    pair = '{"question2": "How so\\ud83d?", "question1": "How?"}'
    assert typed(pair, PAIRS) == [Text(where, "How?", "How so\ufffd?")]


@pytest.mark.parametrize(
    ("settings", "line", "message"),
    [
        (CLASSES, b"caf\xe9", "line 2: not valid UTF-8"),
        (NUMBERS, b"\x00\xff", "line 2: not valid UTF-8"),
        (PAIRS, b"How?", r'line 2: not JSON .*wants an object a line, \{"question1": "...", "question2": "'),
        (PAIRS, b"[1]", "line 2: not a JSON object; the model wants"),
        (PAIRS, b'{"question1": 7}', "line 2: 'question1' is 7, not a text"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(
    settings: TextTaskConfig, line: bytes, message: str
):
    first = b'{"question1": "a", "question2": "b"}\n'
    lines = task_of(settings).read_stdin([first, line], settings)
    next(lines)
    with pytest.raises(ValueError, match=f"standard input {message}") as error:
        next(lines)
    assert "\n" not in str(error.value)


def test_one_that_is_typed_has_its_pair():
    assert classification.example("How?", "How so?", PAIRS) == Text("the text", "How?", "How so?")
    assert regression.example("one", None, NUMBERS) == Text("the text", "one")
    with pytest.raises(ValueError, match="trained on pairs: give 'question2' with --pair"):
        classification.example("How?", None, PAIRS)


# TFDS


def test_tfds_gives_the_same_examples_as_files(small_reviews: str):
    source = f"{small_reviews}:train"
    assert classification.read(source, CLASSES) == [
        Text(f"{source} record 1", "no film 😭", None, "bad"),
        Text(f"{source} record 2", "a fine film", None, "good"),
    ]
    assert columns(regression.read(source, RegressionConfig(label="score"))) == [
        ("no film 😭", None, 0.5),
        ("a fine film", None, 4.5),
    ]
    assert columns(classification.read(f"{small_reviews}:test", CLASSES, labelled=False)) == [
        ("a film", None, None)
    ]


def test_sequences_of_tfds_are_several_labels(store_tfds: Callable[..., None]):
    import tensorflow_datasets as tfds

    labels = tfds.features.Sequence(tfds.features.ClassLabel(names=["joy", "anger"]))
    store_tfds(
        "emotions",
        {"sentence": tfds.features.Text(), "labels": labels},
        train=[{"sentence": "one", "labels": [1, 0]}, {"sentence": "two", "labels": []}],
    )
    found = multi_label.read("tfds:emotions:train", MultiLabelConfig())
    assert [example.label for example in found] == [("anger", "joy"), ()]


@pytest.mark.usefixtures("small_reviews")
@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("tfds:small_reviews:test", CLASSES, r"test record 1: the label is -1, which"),
        ("tfds:small_reviews:test", RegressionConfig(label="score"), r"'score' is nan, not a finite"),
        ("tfds:small_reviews:train", ClassificationConfig(text="body"), r"no column 'body'; it has"),
        ("tfds:small_reviews:train", ClassificationConfig(text="year"), r"'year' is 1999, not a text"),
        ("tfds:small_reviews:train", ClassificationConfig(text="raw"), r"record 1: not valid UTF-8"),
    ],
)
def test_what_a_tfds_dataset_lacks_is_named(source: str, settings: TextTaskConfig, message: str):
    with pytest.raises(ValueError, match=message) as error:
        task_of(settings).read(source, settings)
    assert "\n" not in str(error.value)


# Rows


def rows_of(*examples: Text, S: int = 32) -> Features:
    """Which both tasks have alike."""
    features = features_of(ClassificationConfig(sequence_length=S), examples)
    other = features_of(RegressionConfig(sequence_length=S), examples)
    for name, array in features.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
    return features


@given(st.lists(texts, min_size=1, max_size=4), st.integers(8, 40))
@settings(deadline=None)
def test_a_text_is_hugging_faces(some: list[str], S: int):
    features = features_of(ClassificationConfig(sequence_length=S), [text(t) for t in some])
    assert_theirs(features, theirs()(some, truncation=True, max_length=S, padding="max_length"))


@pytest.mark.long
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.integers(8, 40))
@settings(deadline=None, max_examples=200)
def test_a_pair_is_hugging_faces_cut_longest_first(some: list[tuple[str, str]], S: int):
    features = features_of(RegressionConfig(sequence_length=S), [text(a, b) for a, b in some])
    firsts, seconds = map(list, zip(*some, strict=True))
    encoded = theirs()(firsts, seconds, truncation="longest_first", max_length=S, padding="max_length")
    assert_theirs(features, encoded)


@pytest.mark.parametrize(
    ("first", "second", "row"),
    [
        ("a b c d", "e f g h", "[CLS] a b [SEP] e f g [SEP]"),
        ("a b c d e", "f g h", "[CLS] a b c [SEP] f g [SEP]"),
        ("a b c d e f", "g", "[CLS] a b c d [SEP] g [SEP]"),
        ("a", "b c d e f g", "[CLS] a [SEP] b c d e [SEP]"),
    ],
)
def test_the_longer_of_a_pair_is_cut_and_the_odd_token_is_the_longer_ones(first: str, second: str, row: str):
    assert pieces(rows_of(text(first, second), S=8)) == row.split()


def test_the_arrays_are_the_batch_contracts():
    features = rows_of(text("one two", "three"), text("four"), S=8)
    assert {name: array.shape for name, array in features.arrays.items()} == {
        "token_ids": (2, 8),
        "segment_lengths": (2, 1, 2),
    }
    assert {array.dtype for array in features.arrays.values()} == {np.dtype(np.int32)}
    assert features.arrays["segment_lengths"].tolist() == [[[4, 2]], [[3, 0]]]
    assert features.examples_N.tolist() == [0, 1]
    assert features.examples_N.dtype == np.int32


def test_what_is_cut_is_named():
    examples = [
        Text("file row 1", "a b c d e f"),
        Text("file row 2", "a b c d e f g"),
        Text("file row 3", "a b c", "d e"),
        Text("file row 4", "a b c", "d e f"),
    ]
    assert rows_of(*examples, S=8).cut == ["file row 2", "file row 4"]


def test_all_have_labels_or_none_has():
    examples = [text("a", label="no"), Text("train.tsv row 2", "b")]
    with pytest.raises(ValueError, match=r"^train.tsv row 2 has no label, and other examples have$"):
        features_of(ClassificationConfig(labels=("no",)), examples)
    examples = [Text("train.tsv row 1", "b"), text("a", label=1.0)]
    with pytest.raises(ValueError, match=r"^train.tsv row 1 has no label, and other examples have$"):
        features_of(NUMBERS, examples)
