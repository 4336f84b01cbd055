"""The scores of predictions: known values, and those of the field's own programs."""

from __future__ import annotations

import sys

import pytest

from bert_jax.tasks.examples import Answer, Question, Text, Words
from bert_jax.tasks.scores import check_libraries, names, score
from tests.tasks.test_features import question, text
from tests.tasks.test_predictions import round_trip

pytestmark = pytest.mark.filterwarnings("error")


def texts(*labels) -> list[Text]:
    return [text("a", label=label) for label in labels]


def classified(truth: str, said: str) -> dict[str, float]:
    labels = sorted({*truth, *said})
    return score("classification", texts(*truth), [{"label": label} for label in said], labels=labels)


def regressed(truth: list[float], said: list[float]) -> dict[str, float]:
    return score("regression", texts(*truth), [{"score": number} for number in said], labels=())


def tagged(truth: list[str], said: list[str | None]) -> dict[str, float]:
    """Of one sentence."""
    words = tuple("w" for _ in truth)
    labels = sorted({*truth, *said} - {None})
    said = [{"words": list(words), "labels": said}]
    return score("tokens", [Words("", words, tuple(truth))], said, labels=labels)


def answered(truth: list[str], said: str) -> tuple[float, float]:
    """Exact match and F1 of one question."""
    example = Question("", "q", "?", "", tuple(Answer(answer, 0) for answer in truth))
    scores = score("qa", [example], [{"answer": said}], labels=())
    assert set(scores) == {"exact_match", "f1"}
    return scores["exact_match"], scores["f1"]


# All heads

EXAMPLES = {
    "classification": [text("a", label="x"), text("b", label="y"), text("c", label="x")],
    "regression": [text("a", label=0.5), text("b", label=3.0), text("c", label=1.0)],
    "tokens": [Words("", ("a", "b", "c"), ("B-x", "I-x", "O")), Words("", ("d",), ("B-y",))],
    "qa": [question("Ada was there", "Ada"), question("nobody was there")],
}
LABELS = {"classification": ["x", "y"], "tokens": ["O", "B-x", "I-x", "B-y"], "regression": [], "qa": []}
WRONG = {
    "classification": [{"label": "x"}, {"label": "x"}, {"label": "x"}],
    "regression": [{"score": 3.0}, {"score": 2.5}, {"score": 1.0}],
    "tokens": [{"labels": ["B-x", "O", "O"]}, {"labels": ["B-y"]}],
    "qa": [{"answer": "Ada was"}, {"answer": "nobody"}],
}


@pytest.mark.parametrize("head", EXAMPLES)
def test_perfect_predictions_score_one_and_wrong_ones_less(head):
    examples = EXAMPLES[head]
    said = round_trip(head, examples, labels=LABELS[head])
    scores = score(head, examples, said, labels=LABELS[head])
    assert scores.keys() == set(names(head, LABELS[head]))
    assert scores == pytest.approx({name: 0.0 if name == "mse" else 1.0 for name in scores})
    assert all(type(value) is float for value in scores.values())
    wrong = score(head, examples, WRONG[head], labels=LABELS[head])
    assert wrong[names(head, LABELS[head])[0]] < 1
    assert wrong.keys() == scores.keys()


@pytest.mark.parametrize(("head", "module"), [("classification", "sklearn"), ("tokens", "seqeval")])
def test_what_is_missing_is_named(head, module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    said = round_trip(head, EXAMPLES[head], labels=LABELS[head])
    with pytest.raises(ValueError, match=r"pip install 'bert-jax\[finetune\]'"):
        score(head, EXAMPLES[head], said, labels=LABELS[head])
    with pytest.raises(ValueError, match=r"pip install 'bert-jax\[finetune\]'"):
        check_libraries(head)


# Labels


def test_scores_of_labels():
    """Of y, 1 of 2 is found and nothing else is called y: F1 2/3; of n, 2 of 2, and 1 too many: F1 4/5."""
    scores = classified("yynn", "ynnn")
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["mcc"] == pytest.approx((1 * 2 - 0 * 1) / (1 * 2 * 2 * 3) ** 0.5)


def test_the_macro_mean_is_over_the_labels_that_occur():
    assert classified("aab", "aac")["macro_f1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("labels", "f1"), [("ny", 2 / 3), ("yn", 4 / 5)])
def test_of_two_labels_the_second_has_an_f1(labels, f1):
    said = [{"label": label} for label in "ynnn"]
    assert score("classification", texts(*"yynn"), said, labels=labels)["f1"] == pytest.approx(f1)


@pytest.mark.parametrize("labels", ["y", "ny", "nyz"])
def test_the_scores_do_not_depend_on_the_labels_that_occur(labels):
    scores = score("classification", texts(*"yy"), [{"label": "y"}] * 2, labels=labels)
    assert scores.keys() == set(names("classification", labels))
    assert score("classification", texts(*"nn"), [{"label": "n"}] * 2, labels="ny")["f1"] == 0


def test_one_label_correlates_with_nothing():
    assert classified("yyy", "yyy") == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 0.0}
    assert classified("yyn", "yyy")["mcc"] == 0.0


# Numbers


def test_scores_of_numbers():
    scores = regressed([1, 2, 3], [10, 20, 60])
    assert scores["pearson"] == pytest.approx(5 / 28**0.5)
    assert scores["spearman"] == pytest.approx(1)
    assert scores["mse"] == pytest.approx((81 + 324 + 57**2) / 3)
    assert regressed([1, 2, 3], [3, 2, 1])["pearson"] == pytest.approx(-1)


@pytest.mark.parametrize(("truth", "said"), [([1, 2, 3], [2, 2, 2]), ([1, 1], [1, 2]), ([1], [3])])
def test_what_does_not_vary_correlates_with_nothing(truth, said):
    scores = regressed(truth, said)
    assert (scores["pearson"], scores["spearman"]) == (0, 0)
    assert scores["mse"] > 0


# Words


def test_entities_count_as_a_whole():
    """Of three entities one is found, one is cut short, one is missed."""
    truth = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "B-LOC"]
    said = ["B-PER", "I-PER", "O", "B-LOC", "O", "O"]
    assert tagged(truth, said) == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "accuracy": 4 / 6}
    )


def test_the_type_of_an_entity_counts():
    assert tagged(["B-PER", "O"], ["B-LOC", "O"]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0.5}


@pytest.mark.parametrize(
    "labels",
    [["I-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"], ["B-PER", "E-PER", "O"], ["O", "S-PER", "S-LOC"]],
)
def test_all_schemes_are_understood(labels):
    assert tagged(labels, labels)["f1"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("B-X L-X B-X L-X / B-X L-X B-X O", "B-X E-X B-X E-X / B-X E-X B-X O"),
        ("B-X I-X L-X U-X / B-X I-X L-X O", "B-X I-X E-X S-X / B-X I-X E-X O"),
        ("B-X L-X U-Y U-Y / B-X U-X U-Y O", "B-X E-X S-Y S-Y / B-X S-X S-Y O"),
        ("B I I O / B I O O", "B-X I-X I-X O / B-X I-X O O"),
        ("B L U O / B L O U", "B-X E-X S-X O / B-X E-X O S-X"),
    ],
)
def test_the_letters_of_bilou_and_labels_without_a_type_are_entities_as_the_others(one, other):
    scores = [tagged(*map(str.split, case.split(" / "))) for case in (one, other)]
    assert scores[0] == scores[1]
    assert scores[0]["f1"] < 1


def test_a_whole_entity_without_a_type_counts():
    assert tagged(["B", "I", "I", "O"], ["B", "I", "O", "O"])["f1"] == 0
    assert tagged(["B", "I", "O", "B"], ["B", "I", "O", "O"])["f1"] == pytest.approx(2 / 3)


def test_letters_beside_other_labels_are_of_one_word_each():
    """The nouns S, adjectives A and interjections I of some corpora."""
    assert tagged(["S", "A", "I", "I"], ["S", "A", "I", "O"]) == pytest.approx(
        {"precision": 1, "recall": 3 / 4, "f1": 6 / 7, "accuracy": 3 / 4}
    )


def test_a_label_beside_those_of_a_scheme_is_of_one_word():
    scores = tagged(["B-PER", "I-PER", "X", "X"], ["B-PER", "I-PER", "X", "O"])
    assert scores["recall"] == pytest.approx(2 / 3)


def test_a_word_without_a_prediction_is_outside():
    truth = ["B-PER", "O", "B-PER", "O"]
    assert tagged(truth, ["B-PER", "O", None, None]) == tagged(truth, ["B-PER", "O", "O", "O"])


def test_nothing_found_scores_nothing():
    assert tagged(["B-PER"], ["O"]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0}
    assert tagged(["O"], ["O"]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 1}


def test_labels_that_begin_nothing_are_of_one_word_each():
    """Parts of speech, for which precision, recall and F1 are the accuracy."""
    truth, said = ["NOUN", "NOUN", "VERB", "DET"], ["NOUN", "OTHER", "VERB", "DET"]
    assert tagged(truth, said) == {"precision": 0.75, "recall": 0.75, "f1": 0.75, "accuracy": 0.75}


# Answers, as SQuAD 2.0's evaluate-v2.0.py


@pytest.mark.parametrize(
    ("truth", "said", "exact", "f1"),
    [
        (["Ada Lovelace"], "Ada Lovelace", 1, 1),
        (["Ada Lovelace"], "the ADA, Lovelace!", 1, 1),  # capitals, punctuation, articles
        (["Ada Lovelace"], "  Ada \n Lovelace ", 1, 1),
        (["Ada Lovelace"], "AdaLovelace", 0, 0),
        (["e-mail"], "email", 1, 1),  # punctuation leaves no space
        (["a theatre"], "theatre", 1, 1),
        (["theatre"], "atre", 0, 0),
        (["Ada Lovelace"], "Lovelace", 0, 2 / 3),
        (["Ada Lovelace"], "Countess of Lovelace", 0, 2 / 5),
        (["no no no"], "no no yes", 0, 2 / 3),  # each word as often as it is there
        (["1912", "in the year 1912"], "year 1912", 0, 4 / 5),  # the best of several
        (["1912", "1913"], "1913", 1, 1),
        ([], "", 1, 1),
        ([], "Ada", 0, 0),
        (["Ada"], "", 0, 0),
        ([], "the", 1, 1),  # nothing but an article is no answer
        (["the", "!"], "", 1, 1),
        (["the", "Ada"], "", 0, 0),  # answers of nothing count only if there is no other
        (["“Ada”"], "Ada", 0, 0),  # string.punctuation is ASCII
    ],
)
def test_scores_of_an_answer(truth, said, exact, f1):
    assert answered(truth, said) == pytest.approx((exact, f1))


def test_scores_of_answers_are_means():
    examples = [question("Ada was there", "Ada"), question("nobody"), question("x y", "x y")]
    said = [{"answer": "Ada"}, {"answer": "nobody"}, {"answer": "x"}]
    assert score("qa", examples, said, labels=()) == pytest.approx({"exact_match": 1 / 3, "f1": 5 / 9})
