"""Regression: numbers of texts, and scores of which known values are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import RegressionConfig
from bert_jax.tasks import regression
from bert_jax.tasks.text import Text
from tests.helpers.examples import features_of, round_trip, text, write

pytestmark = pytest.mark.filterwarnings("error")

SETTINGS = RegressionConfig()


# Numbers


def test_regression_has_numbers(tmp_path: Path):
    rows = ["-1.5", "3", "1e-3"]
    path = write(tmp_path, "a.csv", "sentence,label\n" + "".join(f"text,{row}\n" for row in rows))
    labels = [example.label for example in regression.read(path, SETTINGS)]
    assert labels == [-1.5, 3.0, 0.001]
    assert all(type(label) is float for label in labels)
    path = write(tmp_path, "a.jsonl", '{"sentence": "a", "label": 3}\n{"sentence": "b", "label": "2.5"}')
    assert [example.label for example in regression.read(path, SETTINGS)] == [3.0, 2.5]


@pytest.mark.parametrize("label", ["nan", "-inf", "1e39", "-1e39", "abc", "1,5", " "])
def test_a_number_must_be_a_finite_one(tmp_path: Path, label: str):
    path = write(tmp_path, "a.tsv", f"sentence\tlabel\none\t1\ntwo\t{label}\n")
    with pytest.raises(ValueError, match=f"a.tsv row 2: 'label' is '{label}', not a finite number"):
        regression.read(path, SETTINGS)


@pytest.mark.parametrize("label", ["NaN", "Infinity", "true", "null", "[1]", "1" * 40, "1" * 400])
def test_a_number_of_json_must_be_a_finite_one(tmp_path: Path, label: str):
    path = write(tmp_path, "a.jsonl", f'{{"sentence": "one", "label": {label}}}')
    with pytest.raises(ValueError, match=r"a\.jsonl line 1: 'label' is .*, not a finite number"):
        regression.read(path, SETTINGS)


def test_labels_of_texts_are_their_numbers():
    arrays = features_of(SETTINGS, [text("a", label=2.5), text("b", label=0.0)]).arrays
    assert (arrays["labels"].tolist(), arrays["labels"].dtype) == ([2.5, 0], np.float32)
    assert arrays["weights"].tolist() == [1, 1]


# Predictions and scores


def test_a_number_comes_back():
    assert round_trip(SETTINGS, [text("a", label=2.5), Text("", "b", "c", -1.0)]) == [
        {"score": 2.5},
        {"score": -1.0},
    ]


def regressed(truth: list[float], said: list[float]) -> dict[str, float]:
    examples = [text("a", label=number) for number in truth]
    return regression.score(examples, [{"score": number} for number in said], SETTINGS)


def test_scores_of_numbers():
    scores = regressed([1, 2, 3], [10, 20, 60])
    assert scores["pearson"] == pytest.approx(5 / 28**0.5)
    assert scores["spearman"] == pytest.approx(1)
    assert scores["mse"] == pytest.approx((81 + 324 + 57**2) / 3)
    assert regressed([1, 2, 3], [3, 2, 1])["pearson"] == pytest.approx(-1)


def test_only_of_the_error_less_is_better():
    better = {metric.name: metric.higher_is_better for metric in regression.metrics(SETTINGS)}
    assert better == {"pearson": True, "spearman": True, "mse": False}


@pytest.mark.parametrize(("truth", "said"), [([1, 2, 3], [2, 2, 2]), ([1, 1], [1, 2]), ([1], [3])])
def test_what_does_not_vary_correlates_with_nothing(truth: list[float], said: list[float]):
    scores = regressed(truth, said)
    assert (scores["pearson"], scores["spearman"]) == (0, 0)
    assert scores["mse"] > 0


# Hugging Face


def test_one_number_is_a_regression_of_transformers():
    """Also where a config has no problem_type, but one label."""
    suffix = regression.HUGGINGFACE_SUFFIX
    for fields in ({"problem_type": "regression"}, {"id2label": {"0": "LABEL_0"}}):
        assert regression.from_huggingface(suffix, fields) == SETTINGS
        assert regression.from_huggingface("ForTokenClassification", fields) is None
    assert regression.from_huggingface(suffix, {}) is None
