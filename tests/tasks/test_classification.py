"""Classification: labels of texts, what is said of a text, and scores of which known values are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import ClassificationConfig
from bert_jax.tasks import classification
from bert_jax.tasks.text import Text
from tests.helpers.examples import features_of, round_trip, text, write

pytestmark = pytest.mark.filterwarnings("error")


def texts(labels: str) -> list[Text]:
    """A text for each letter, which is its label."""
    return [text("a", label=label) for label in labels]


# Labels


SAME = {
    "good": ["good", " good "],
    "0": [0, 0.0, "0", "0.0", "0.00", -0.0, "-0", "-0.0", "0e5"],
    "1": [1, 1.0, "1", "1.0", "1.", "+1", "1e0"],
    "-2": [-2, -2.0, "-2", "-2.0"],
    "2.5": [2.5, "2.5", "2.50", "+2.5", "25e-1"],
    "0.5": [0.5, "0.5", ".5", "+.5"],
    "1e-07": [1e-7, "1e-7", "1E-07", "0.0000001"],
    "10000000000000000": [1e16, 10**16, "1e16", "1e+16", "10000000000000000"],
    "12345678901234567891": [12345678901234567891, "12345678901234567891"],
    "true": [True, "true", "True", "TRUE"],
    "false": [False, "false", "False", "FALSE"],
    "1000": [1e3, "1e3"],
    "1.2.0": ["1.2.0"],
    "007": ["007"],
    "01": ["01"],
    "1e999": ["1e999"],
    "1_000": ["1_000"],
    "+": ["+"],
}
"""Labels, and how files write them."""


@pytest.mark.parametrize("name", ["a.jsonl", "a.tsv", "a.csv"])
def test_a_label_is_the_same_in_all_files(tmp_path: Path, name: str):
    for label, spellings in SAME.items():
        written = spellings if name == "a.jsonl" else list(map(str, spellings))
        separator = "\t" if name == "a.tsv" else ","
        content = (
            "\n".join(json.dumps({"sentence": "text", "label": spelling}) for spelling in written)
            if name == "a.jsonl"
            else "\n".join(["sentence" + separator + "label", *(f"text{separator}{s}" for s in written)])
        )
        found = classification.read(write(tmp_path, name, content), ClassificationConfig())
        assert [example.label for example in found] == [label] * len(spellings)


def test_labels_that_are_asked_for_are_read_by_the_same_rule(tmp_path: Path):
    path = write(tmp_path, "a.csv", "sentence,label\none,True\ntwo,False\n")
    settings = ClassificationConfig(labels=("False", "True"))
    examples = classification.read(path, settings)
    settings = classification.with_labels(settings, examples)
    assert settings.labels == ("false", "true")
    assert features_of(settings, examples).arrays["labels"].tolist() == [1, 0]


def test_numbers_count_the_labels_that_have_names(tmp_path: Path):
    """As in Hugging Face's datasets; numbers that are asked for are names themselves."""
    path = write(tmp_path, "a.jsonl", '{"sentence": "one", "label": 1}\n{"sentence": "two", "label": 0.0}')
    labels = [e.label for e in classification.read(path, ClassificationConfig(labels=("bad", "good")))]
    assert labels == ["good", "bad"]
    labels = [e.label for e in classification.read(path, ClassificationConfig(labels=("1", "0")))]
    assert labels == ["1", "0"]
    path = write(tmp_path, "a.tsv", "sentence\tlabel\none\t2\n")
    with pytest.raises(
        ValueError, match=r"row 1: 'label' is 2; .* from 0 on, .* last of task\.labels is 1: "
    ):
        classification.read(path, ClassificationConfig(labels=("bad", "good")))


STARS = ("1 star", *(f"{n} stars" for n in range(2, 6)))


@pytest.mark.parametrize(
    ("labels", "found", "read"),
    [
        (("bad", "good", "2"), 2, "2"),
        (("bad", "good", "2"), "good", "good"),
        (
            ("bad", "good", "2"),
            1,
            r"'label' is 1, which is none of task\.labels, but some of them are numbers",
        ),
        (("0", "1"), 2, r"'label' is 2, which is none of task\.labels, .*: add it there"),
        (("0.5", "1.5"), 1, r"'label' is 1, which is none of task\.labels"),
        (("-1", "0", "1"), -1, "-1"),
        (
            STARS,
            1,
            r"'label' is 1, which is '2 stars' as counted from 0 on, and may mean '1 star': write the",
        ),
        (
            STARS,
            5,
            r"'label' is 5; labels are counted from 0 on, and the last of task\.labels is 4: count so",
        ),
        (("01", "02", "03"), 1, r"'label' is 1, which is '02' as counted from 0 on, and may mean '01'"),
        (("1 star", "2 stars", "unrated"), 2, r"'label' is 2, which is 'unrated' .*, and may mean '2 stars'"),
        (("1 of 2", "2 of 2"), 1, r"'label' is 1, which is '2 of 2' .*, and may mean '1 of 2'"),
        (("LABEL_0", "LABEL_1"), 1, "LABEL_1"),
        (("top 10", "top 20"), 1, "top 20"),
        (("flu", "covid 1"), 0, "flu"),
    ],
)
def test_a_number_is_the_label_that_is_meant_or_none(
    tmp_path: Path, labels: tuple[str, ...], found: object, read: str
):
    """Never another one, as where labels are counted from 1 on."""
    path = write(tmp_path, "a.jsonl", json.dumps({"sentence": "one", "label": found}))
    if not read.startswith("'label'"):
        assert classification.read(path, ClassificationConfig(labels=labels))[0].label == read
        return
    with pytest.raises(ValueError, match=f"line 1: {read}"):
        classification.read(path, ClassificationConfig(labels=labels))


@pytest.mark.parametrize("labels", [(), ("bad", "good"), ("0", "1")])
@pytest.mark.parametrize("unknown", ["-1", "-100"])
def test_a_label_that_stands_for_none_is_refused_unless_it_is_asked_for(
    tmp_path: Path, unknown: str, labels: tuple[str, ...]
):
    """As GLUE has it in its tests."""
    for name, content in {
        "a.tsv": f"sentence\tlabel\none\t{unknown}\n",
        "a.csv": f"sentence,label\none,{unknown}.0\n",
        "a.jsonl": f'{{"sentence": "one", "label": {unknown}}}',
    }.items():
        path = write(tmp_path, name, content)
        with pytest.raises(
            ValueError, match=f" 1: 'label' is {unknown}, which stands for none; use a split that"
        ):
            classification.read(path, ClassificationConfig(labels=labels))
        assert classification.read(path, ClassificationConfig(labels=(unknown, "0")))[0].label == unknown


def test_labels_that_are_asked_for_are_different_ones(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "sentence\tlabel\none\t1\n")
    with pytest.raises(ValueError, match=r"task\.labels \('1', '1\.0'\) has a number or truth value twice"):
        classification.read(path, ClassificationConfig(labels=("1", "1.0")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "sentence\tlabel\none\t \n", r"a\.tsv row 1: 'label' is empty"),
        ("a.csv", "sentence,label\none,NaN\n", r"row 1: 'label' is NaN, which programs write where there is"),
        ("a.jsonl", '{"sentence": "one", "label": NaN}', r"line 1: 'label' is nan, neither a string nor"),
        ("a.jsonl", '{"sentence": "one", "label": null}', r"line 1: 'label' is None, neither a string nor"),
        ("a.jsonl", '{"sentence": "one", "label": [1]}', r"line 1: 'label' is \[1\], neither a string nor"),
    ],
)
def test_what_is_no_label_is_said_with_its_row(tmp_path: Path, name: str, content: str, message: str):
    with pytest.raises(ValueError, match=message):
        classification.read(write(tmp_path, name, content), ClassificationConfig())


def test_the_labels_are_those_of_the_examples_unless_others_are_asked_for():
    assert classification.with_labels(ClassificationConfig(), texts("yny")).labels == ("n", "y")
    asked = ClassificationConfig(labels=("y", "n", "x"), epochs=2.0)
    assert classification.with_labels(asked, texts("yny")) == asked


def test_labels_of_texts_are_places_among_the_labels():
    arrays = features_of(ClassificationConfig(labels=("y", "n")), texts("nyn")).arrays
    assert (arrays["labels"].tolist(), arrays["labels"].dtype) == ([1, 0, 1], np.int32)
    assert (arrays["weights"].tolist(), arrays["weights"].dtype) == ([1, 1, 1], np.float32)


def test_a_label_may_weigh_more_than_another():
    settings = ClassificationConfig(label_weights=(1.0, 4.0))
    settings = classification.with_labels(settings, texts("nyn"))
    assert features_of(settings, texts("nyn")).arrays["weights"].tolist() == [1, 4, 1]
    with pytest.raises(ValueError, match=r"task\.label_weights has 3 numbers for 2 labels: n, y"):
        classification.with_labels(ClassificationConfig(label_weights=(1.0, 1.0, 1.0)), texts("ny"))
    with pytest.raises(ValueError, match="all must be positive"):
        ClassificationConfig(label_weights=(1.0, 0.0))


def test_a_label_must_be_known():
    with pytest.raises(ValueError, match=r"^train.tsv row 1 has the label 'x'; known are 'no', 'yes'$"):
        features_of(ClassificationConfig(labels=("no", "yes")), texts("x"))


# Predictions


def test_a_label_and_the_probability_of_each():
    examples, settings = [text("a"), text("b")], ClassificationConfig(labels=("no", "yes"))
    logits = np.array([[0, np.log(3)], [1e4, 0]], np.float32)  # large ones do not overflow
    said = classification.predict(examples, features_of(settings, examples), logits, settings)
    assert [one["label"] for one in said] == ["yes", "no"]
    assert said[0]["scores"] == pytest.approx({"no": 0.25, "yes": 0.75})
    assert said[1]["scores"] == {"no": 1.0, "yes": 0.0}


def test_texts_come_back():
    examples = [text("a", label="yes"), text("b", "c", label="perhaps"), text("d", label="no")]
    said = round_trip(ClassificationConfig(labels=("no", "yes", "perhaps")), examples)
    assert [one["label"] for one in said] == ["yes", "perhaps", "no"]


# Scores


def score(truth: str, said: str, labels: str) -> dict[str, float]:
    settings = ClassificationConfig(labels=tuple(labels))
    return classification.score(texts(truth), [{"label": label} for label in said], settings)


def classified(truth: str, said: str) -> dict[str, float]:
    return score(truth, said, "".join(sorted({*truth, *said})))


def test_scores_of_labels():
    """Of y, 1 of 2 is found and nothing else is called y: F1 2/3; of n, 2 of 2, and 1 too many: F1 4/5."""
    scores = classified("yynn", "ynnn")
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["mcc"] == pytest.approx((1 * 2 - 0 * 1) / (1 * 2 * 2 * 3) ** 0.5)


def test_the_macro_mean_is_over_the_labels_that_occur():
    assert classified("aab", "aac")["macro_f1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("labels", "f1"), [("ny", 2 / 3), ("yn", 4 / 5)])
def test_of_two_labels_the_second_has_an_f1(labels: str, f1: float):
    assert score("yynn", "ynnn", labels)["f1"] == pytest.approx(f1)


@pytest.mark.parametrize("labels", ["y", "ny", "nyz"])
def test_the_scores_do_not_depend_on_the_labels_that_occur(labels: str):
    metrics = classification.metrics(ClassificationConfig(labels=tuple(labels)))
    assert score("yy", "yy", labels).keys() == {metric.name for metric in metrics}
    assert score("nn", "nn", "ny")["f1"] == 0


def test_one_label_correlates_with_nothing():
    assert classified("yyy", "yyy") == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 0.0}
    assert classified("yyn", "yyy")["mcc"] == 0.0


# Hugging Face


def test_classes_of_transformers_that_are_no_classification_of_ours():
    fields = {"id2label": {"0": "no", "1": "yes"}}
    suffix = classification.HUGGINGFACE_SUFFIX
    assert classification.from_huggingface(suffix, fields) == ClassificationConfig(labels=("no", "yes"))
    assert classification.from_huggingface(suffix, {}) == ClassificationConfig(labels=("LABEL_0", "LABEL_1"))
    several = {"problem_type": "multi_label_classification"}
    for other in ({"problem_type": "regression"}, {"id2label": {"0": "LABEL_0"}}, several):
        assert classification.from_huggingface(suffix, fields | other) is None
    assert classification.from_huggingface("ForTokenClassification", fields) is None
