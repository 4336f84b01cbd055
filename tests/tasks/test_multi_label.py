"""Multi-label classification: any number of labels for a text, none too; scores of which known values are
checked."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bert_jax.config import MultiLabelConfig
from bert_jax.finetuning.data import make_splits
from bert_jax.objectives.objective import mean
from bert_jax.tasks import multi_label
from bert_jax.tasks.text import Text
from tests.helpers.examples import features_of, round_trip, text, tokenizer_of, write

pytestmark = pytest.mark.filterwarnings("error")


def texts(*labels: str) -> list[Text]:
    """A text for each word, whose letters are its labels."""
    return [text("a", label=tuple(word)) for word in labels]


# Labels

SAME: list[tuple[tuple[str, ...], list[object]]] = [
    (("a", "b"), [["a", "b"], "a,b", " a , b "]),
    (("new york",), [["new york"], "new york"]),
    ((), [[], "", " ", "[]"]),
    (("a", "b"), ["['a', 'b']"]),
    (("0", "1"), ["[0, 1]", [0, 1]]),
    (("2", "true"), [[2.0, True], "2.0,TRUE", ["2", "true"]]),
    (("7",), [[7], 7, "7"]),
]
"""Sets of labels, and how a JSONL writes them; of a table those that are texts."""


@pytest.mark.parametrize("name", ["a.jsonl", "a.tsv", "a.csv"])
def test_labels_are_the_same_in_all_files(tmp_path: Path, name: str):
    for labels, spellings in SAME:
        if name == "a.jsonl":
            content = "\n".join(json.dumps({"sentence": "text", "labels": labels}) for labels in spellings)
        else:
            spellings = [spelling for spelling in spellings if isinstance(spelling, str)]
            quoted = [f'"{spelling}"' if name == "a.csv" else spelling for spelling in spellings]
            separator = "\t" if name == "a.tsv" else ","
            content = "\n".join(
                separator.join(row) for row in [("sentence", "labels"), *(("text", q) for q in quoted)]
            )
        found = multi_label.read(write(tmp_path, name, content), MultiLabelConfig())
        assert [example.label for example in found] == [labels] * len(spellings)


def test_a_name_may_have_a_comma_in_a_list(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"sentence": "one", "labels": ["a, b", "c"]}')
    assert multi_label.read(path, MultiLabelConfig())[0].label == ("a, b", "c")


def test_numbers_count_the_labels_that_have_names(tmp_path: Path):
    path = write(
        tmp_path, "a.jsonl", '{"sentence": "one", "labels": [2, 0]}\n{"sentence": "two", "labels": []}'
    )
    settings = MultiLabelConfig(labels=("x", "y", "z"))
    assert [e.label for e in multi_label.read(path, settings)] == [("z", "x"), ()]
    with pytest.raises(
        ValueError, match=r"line 1: 'labels' is 2; labels are counted from 0 on, and the last"
    ):
        multi_label.read(path, MultiLabelConfig(labels=("x", "y")))


def test_a_zero_or_one_for_each_label_is_read(tmp_path: Path):
    """As Transformers' loss takes them; whole numbers that differ are numbers of labels."""
    rows = {
        "[1.0, 0.0, 0.0]": ("5",),
        "[0, 1, 1]": ("x", "y"),
        "[0, 0, 0]": (),
        "[true, false, true]": ("5", "y"),
        '"[0.0, 1.0, 0.0]"': ("x",),
    }
    lines = (f'{{"sentence": "one", "labels": {labels}}}' for labels in rows)
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    found = multi_label.read(path, MultiLabelConfig(labels=("5", "x", "y")))
    assert [example.label for example in found] == list(rows.values())
    path = write(tmp_path, "b.jsonl", '{"sentence": "one", "labels": [1, 0]}')
    assert multi_label.read(path, MultiLabelConfig(labels=("x", "y")))[0].label == ("y", "x")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("null", "'labels' is None, neither a string nor a number"),
        ('["a", null]', "'labels' is None, neither a string nor a number"),
        ('[["a"]]', r"'labels' is \['a'\], neither a string nor a number"),
        ('{"a": 1}', "'labels' is {'a': 1}, neither a string nor a number"),
        ('["a", ""]', "'labels' is empty"),
        ('"a,,b"', "'labels' is empty"),
        ('"[a, b]"', r"'labels' is '\[a, b\]', which begins as a list does and is none"),
        ('["a", "b", "a"]', "'labels' has 'a' twice"),
        ("[1, 1.0]", "'labels' has a 0 or 1 for each of 2 labels, but task.labels names 0: name them with"),
        ("[7, 7.0]", "'labels' has '7' twice"),
    ],
)
def test_what_is_no_set_of_labels_is_said_with_its_row(tmp_path: Path, labels: str, message: str):
    path = write(tmp_path, "a.jsonl", f'{{"sentence": "one", "labels": {labels}}}')
    with pytest.raises(ValueError, match=rf"a\.jsonl line 1: {message}") as error:
        multi_label.read(path, MultiLabelConfig())
    assert "\n" not in str(error.value)


def test_the_labels_are_those_of_the_examples_unless_others_are_asked_for():
    assert multi_label.with_labels(MultiLabelConfig(), texts("yn", "", "a")).labels == ("a", "n", "y")
    asked = MultiLabelConfig(labels=("y", "n", "x"), epochs=2.0)
    assert multi_label.with_labels(asked, texts("yn")) == asked
    with pytest.raises(
        ValueError, match=r"no example has a label in the column 'labels'; choose .* --task\.label"
    ):
        multi_label.with_labels(MultiLabelConfig(), texts("", ""))


def test_labels_of_texts_are_ones_among_zeros():
    arrays = features_of(MultiLabelConfig(labels=("y", "n", "x")), texts("xy", "", "n")).arrays
    assert arrays["labels"].tolist() == [[[1, 0, 1]], [[0, 0, 0]], [[0, 1, 0]]]
    assert arrays["labels"].dtype == np.float32
    assert (arrays["weights"].tolist(), arrays["weights"].dtype) == ([1, 1, 1], np.float32)


def test_as_many_labels_as_columns_are_not_cut_with_them():
    settings = MultiLabelConfig(labels=tuple(map(str, range(64))), sequence_length=64)
    ((_, features),) = make_splits(settings, [[text("a", label=("63",))]], tokenizer_of("minilm"))
    assert features.arrays["token_ids"].shape == (1, 8)
    assert features.arrays["labels"].shape == (1, 1, 64)


def test_a_label_must_be_known():
    with pytest.raises(ValueError, match=r"^train.tsv row 1 has the label 'x'; known are 'no', 'yes'$"):
        features_of(MultiLabelConfig(labels=("no", "yes")), [text("a", label=("no", "x"))])


# Loss


def test_the_loss_is_the_mean_binary_cross_entropy():
    """PyTorch's, also of logits beyond float32's exp; texts that weigh nothing do not count."""
    rng = np.random.default_rng(0)
    logits, labels = (
        rng.normal(0, 4, (5, 3)).astype(np.float32),
        rng.integers(0, 2, (5, 3)).astype(np.float32),
    )
    logits[0] = [200, -200, 0]
    batch = {"labels": jnp.asarray(labels[:, None]), "weights": jnp.array([1, 1, 1, 1, 0.0])}
    found = multi_label.loss_sums(None, jnp.asarray(logits), batch)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        *map(torch.tensor, (logits[:4], labels[:4]))
    )
    assert float(mean(found["loss"])) == pytest.approx(float(expected), rel=1e-5)
    right = ((logits > 0) == (labels > 0)).all(axis=1)[:4].mean()
    assert float(mean(found["subset_accuracy"])) == right


# Predictions


def test_labels_above_a_half_and_the_probability_of_each():
    examples, settings = [text("a"), text("b")], MultiLabelConfig(labels=("no", "yes", "so"))
    logits = np.array([[0, np.log(3), 1e4], [-1e4, -1, 0]], np.float32)
    said = multi_label.predict(examples, features_of(settings, examples), logits, settings)
    assert [one["labels"] for one in said] == [["yes", "so"], []]
    assert said[0]["scores"] == pytest.approx({"no": 0.5, "yes": 0.75, "so": 1.0})
    assert said[1]["scores"] == pytest.approx({"no": 0.0, "yes": 1 / (1 + np.e), "so": 0.5})


def test_texts_come_back():
    examples = [text("a", label=("b", "a")), text("b", "c", label=()), text("d", label=("c",))]
    said = round_trip(MultiLabelConfig(labels=("a", "b", "c")), examples)
    assert [one["labels"] for one in said] == [["a", "b"], [], ["c"]]


def test_an_explanation_is_of_the_likeliest_label():
    settings, example = MultiLabelConfig(labels=("x", "y")), text("a")
    features = features_of(settings, [example])
    for logits, prediction in (
        ([1.0, 2.0], "x (73.1%), y (88.1%)"),
        ([-2.0, -1.0], "none of the labels; y has 26.9%"),
    ):
        target = multi_label.explain(example, features, np.array([logits], np.float32), settings, None)
        assert (target.prediction, target.name) == (prediction, "log-probability of y")
        assert float(target.value(jnp.array([logits]))) == pytest.approx(
            -np.log1p(np.exp(-logits[1])), rel=1e-5
        )


# Scores


def score(truth: list[str], said: list[str], labels: str = "xyz") -> dict[str, float]:
    settings = MultiLabelConfig(labels=tuple(labels))
    return multi_label.score(texts(*truth), [{"labels": [*word]} for word in said], settings)


def test_scores_of_labels():
    """Of x, 2 of 2 are found and one too many: F1 4/5; of y, 1 of 2: F1 2/3. Together 3 of 4, 1 too many."""
    scores = score(["xy", "x", "", "y"], ["xy", "x", "x", ""])
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2), "z does not occur"
    assert scores["subset_accuracy"] == 0.5


def test_a_label_that_only_the_predictions_have_counts():
    assert score(["x", "x"], ["xz", "x"])["macro_f1"] == 0.5


@pytest.mark.parametrize("labels", ["x", "xyz"])
def test_no_labels_where_there_are_none_are_right(labels: str):
    right = {"micro_f1": 1.0, "macro_f1": 1.0, "subset_accuracy": 1.0}
    assert score(["", ""], ["", ""], labels) == right
    assert score(["x", ""], ["x", ""], labels) == right
    assert score(["x", ""], ["", "x"], labels) == dict.fromkeys(right, 0.0)


# Hugging Face


def test_the_problem_type_says_that_a_text_has_several():
    """Also where there is one label, or none has a name."""
    suffix = multi_label.HUGGINGFACE_SUFFIX
    several = {"problem_type": "multi_label_classification"}
    for names in ({"0": "x"}, {"0": "x", "1": "y", "2": "z"}):
        found = multi_label.from_huggingface(suffix, several | {"id2label": names})
        assert found == MultiLabelConfig(labels=tuple(names.values()))
    assert multi_label.from_huggingface(suffix, several).labels == ("LABEL_0", "LABEL_1")
    assert multi_label.from_huggingface(suffix, {"id2label": {"0": "x"}}) is None
    assert multi_label.from_huggingface("ForTokenClassification", several) is None
