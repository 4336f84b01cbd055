"""Logits to what is said of an example: what the labels of its rows say, in the person's own words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bert_jax.tasks.examples import Answer, Question, Text, Words
from bert_jax.tasks.features import Features, featurize
from bert_jax.tasks.predictions import _best_span, predict
from data_pipeline.config import TaskConfig
from tests.tasks.test_features import AWKWARD_WORDS, KINDS, question, text, tokenizer_of


def perfect_logits(head, features: Features, *, classes: int = 1) -> np.ndarray:
    """As of a model that has learned these rows by heart."""
    labels = features.arrays["labels"]
    match head:
        case "regression":
            return labels[:, None]
        case "classification" | "tokens":
            return np.eye(classes, dtype=np.float32)[labels] * 10
        case "qa":
            columns = features.arrays["token_ids"].shape[1]
            return np.eye(columns, dtype=np.float32)[labels].swapaxes(1, 2) * 10


def round_trip(head, examples, *, S=32, labels=(), kind="minilm", stride=8, longest_answer=30):
    task = TaskConfig(stride=stride, longest_answer=longest_answer)
    tokenizer = tokenizer_of(kind)
    features = featurize(head, examples, tokenizer, sequence_length=S, labels=labels, task=task)
    logits = perfect_logits(head, features, classes=len(labels))
    said = predict(head, examples, features, logits, labels=labels, task=task)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    return said


# Texts


def test_a_label_and_the_probability_of_each():
    examples = [text("a"), text("b")]
    task = TaskConfig()
    features = featurize(
        "classification", examples, tokenizer_of("minilm"), sequence_length=8, labels=(), task=task
    )
    logits = np.array([[0, np.log(3)], [1e4, 0]], np.float32)  # large ones do not overflow
    said = predict("classification", examples, features, logits, labels=["no", "yes"], task=task)
    assert [one["label"] for one in said] == ["yes", "no"]
    assert said[0]["scores"] == pytest.approx({"no": 0.25, "yes": 0.75})
    assert said[1]["scores"] == {"no": 1.0, "yes": 0.0}


def test_texts_come_back():
    labels = ["no", "yes", "perhaps"]
    examples = [text("a", label="yes"), text("b", "c", label="perhaps"), text("d", label="no")]
    said = round_trip("classification", examples, labels=labels)
    assert [one["label"] for one in said] == ["yes", "perhaps", "no"]


def test_a_number_comes_back():
    assert round_trip("regression", [text("a", label=2.5), Text("", "b", "c", -1.0)]) == [
        {"score": 2.5},
        {"score": -1.0},
    ]


# Words


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_labels_of_words_come_back(kind, data):
    labels = ["O", "B-A", "I-A"]
    words = data.draw(
        st.lists(st.sampled_from(AWKWARD_WORDS).filter(lambda word: len(word) < 20), max_size=12)
    )
    truth = data.draw(st.lists(st.sampled_from(labels), min_size=len(words), max_size=len(words)))
    examples = [Words("row 1", tuple(words), tuple(truth))]
    said = round_trip("tokens", examples, S=128, labels=labels, kind=kind)
    assert said == [{"words": words, "labels": truth}]


def test_words_beyond_the_row_have_no_label():
    examples = [Words("row 1", tuple("abcdefgh"), ("O", "X") * 4), Words("row 2", ("a",), ("X",))]
    said = round_trip("tokens", examples, S=8, labels=["O", "X"])
    assert said[0] == {"words": list("abcdefgh"), "labels": ["O", "X", "O", "X", "O", "X", None, None]}
    assert said[1] == {"words": ["a"], "labels": ["X"]}


# Questions

context_words = st.one_of(
    st.sampled_from([word for word in AWKWARD_WORDS if len(word) < 20]),
    st.sampled_from(
        ["the", "unaffordable", "café", "Tokyo's", "3.14", "naïvely", "(Zoë)", "हिन्दी", "½", "ﬁne"]
    ),
    st.text(max_size=6),
)
spaces = st.sampled_from([" ", "  ", "\n", "\t ", "\u00a0", "\u3000"])


@st.composite
def answered(draw) -> tuple[str, Answer]:
    """A context of awkward words, and an answer of some of them."""
    words = draw(st.lists(context_words, min_size=1, max_size=25))
    gaps = draw(st.lists(spaces, min_size=len(words), max_size=len(words)))
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, min(first + 4, len(words) - 1)))
    starts = np.cumsum([0, *(len(w) + len(g) for w, g in zip(words, gaps, strict=True))]).tolist()
    context = "".join(w + g for w, g in zip(words, gaps, strict=True))
    answer = context[starts[first] : starts[last] + len(words[last])]
    return context, Answer(answer, starts[first])


@pytest.mark.parametrize("kind", KINDS)
@given(answered())
@settings(deadline=None, max_examples=60)
def test_an_answer_comes_back(kind, drawn):
    """All of it that has pieces, with no more than the rest of the pieces at its ends."""
    context, answer = drawn
    task = TaskConfig(stride=12, longest_answer=64)
    examples = [question(context, answer)]
    tokenizer = tokenizer_of(kind)
    features = featurize("qa", examples, tokenizer, sequence_length=64, labels=(), task=task)
    assume(features.arrays["labels"].any())  # it has a piece, and a window holds all of it
    logits = perfect_logits("qa", features)
    (said,) = predict("qa", examples, features, logits, labels=(), task=task)
    start, end = said["start"], said["start"] + len(said["answer"])
    assert said["answer"] == context[start:end]
    spans = features.places[features.places[..., 0] >= 0]
    inside = spans[(spans[:, 1] > answer.start) & (spans[:, 0] < answer.start + len(answer.text))]
    assert (start, end) == (inside[:, 0].min(), inside[:, 1].max())
    lost = context[answer.start : start] + context[end : answer.start + len(answer.text)]
    assert not any(character.isalnum() for character in lost)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("It was Ada Lovelace, of London.", "Ada Lovelace"),
        ("  so cafe\u0301   and naïve  ", "cafe\u0301   and naïve"),
        ("İİ İzmir is far", "İzmir"),
        ("said 👩‍👩‍👧 there", "said 👩‍👩‍👧 there"),
    ],
)
def test_an_answer_is_in_the_contexts_own_characters(kind, context, answer):
    (said,) = round_trip("qa", [question(context, answer)], kind=kind, S=64)
    assert (said["id"], said["answer"], said["start"]) == ("q1", answer, context.index(answer))
    assert (said["score"], said["no_answer_score"]) == (20, 0)


def test_an_answer_is_found_in_whichever_window_has_it():
    contexts = [" ".join("abcdefghijklmnopqrstuvwxyz"), "short"]
    questions = [
        Question("", f"{context} {letter}", "", context, (Answer(letter, context.index(letter)),))
        for context in contexts
        for letter in context.split()
    ]
    said = round_trip("qa", questions, S=13, stride=4)
    assert [one["answer"] for one in said] == [*"abcdefghijklmnopqrstuvwxyz", "short"]
    assert [one["id"] for one in said] == [one.id for one in questions]


def test_no_answer():
    long = " ".join("abcdefghijklmnopqrstuvwxyz")
    for context in ("a b c", long, "", "  ", "\u200d"):
        (said,) = round_trip("qa", [question(context)], S=16, stride=4)
        assert (said["answer"], said["start"], said["no_answer_score"]) == ("", None, 20)
        assert said["score"] == (0 if context.split() and context != "\u200d" else None)


def window(context: str, *, S: int = 16) -> tuple[list[Question], Features]:
    """`[CLS] who ? [SEP] a b c ... [SEP]`: the context starts in column 4."""
    examples = [question(context)]
    tokenizer = tokenizer_of("minilm")
    return examples, featurize(
        "qa", examples, tokenizer, sequence_length=S, labels=(), task=TaskConfig(stride=0)
    )


def say(context: str, logits: dict[tuple[int, int], float], *, longest_answer: int = 30, S: int = 16):
    """With a logit for (column, 0: start or 1: end), of the first row; all others are 0."""
    examples, features = window(context, S=S)
    logits_NxSx2 = np.zeros((len(features.examples_N), S, 2), np.float32)
    for place, logit in logits.items():
        logits_NxSx2[(0, *place)] = logit
    task = TaskConfig(longest_answer=longest_answer)
    (said,) = predict("qa", examples, features, logits_NxSx2, labels=(), task=task)
    return said["answer"]


def test_an_answer_must_beat_no_answer():
    assert say("a b c", {(0, 0): 3, (5, 0): 4}) == "b"
    assert say("a b c", {(0, 0): 4, (5, 0): 3}) == ""
    assert say("a b c", {(0, 0): 4, (5, 0): 4}) == "b"  # as in run_squad.py, of two equal ones the answer


def test_the_window_that_is_least_sure_of_no_answer_counts():
    """Other windows have no answer in any case."""
    examples, features = window(" ".join("abcdefghijklmnopqrst"))
    assert len(features.examples_N) == 2
    logits = np.zeros((2, 16, 2), np.float32)
    logits[0, 0] = 9
    logits[1, 6] = 2
    (said,) = predict("qa", examples, features, logits, labels=(), task=TaskConfig())
    assert (said["no_answer_score"], said["score"]) == (0, 4)
    logits[1, 0] = 3
    (said,) = predict("qa", examples, features, logits, labels=(), task=TaskConfig())
    assert (said["answer"], said["no_answer_score"], said["score"]) == ("", 6, 4)


def test_an_answer_ends_where_it_starts_or_later():
    assert say("a b c", {(6, 0): 5, (5, 1): 5, (6, 1): 1}) == "c"


def test_an_answer_is_in_the_context():
    assert say("a b c", {(1, 0): 9, (1, 1): 9, (5, 0): 1}) == "b"  # not in the question
    assert say("a b c", {(7, 0): 9, (8, 1): 9, (5, 0): 1}) == "b"  # nor the last [SEP] or padding


def test_an_answer_has_a_length():
    wanted = {(4, 0): 5.0, (7, 1): 5.0, (5, 1): 2.0}
    assert say("a b c d", wanted, longest_answer=4) == "a b c d"
    assert say("a b c d", wanted, longest_answer=3) == "a b"
    assert say("a b c d", wanted, longest_answer=1000) == "a b c d"


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_the_best_of_all(longest):
    """Against two loops."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits = rng.normal(size=(12, 2))
        spans = np.stack([np.arange(12), np.arange(12) + 1], axis=1)
        spans[rng.random(12) < 0.3] = -1
        allowed = [
            (logits[first, 0] + logits[last, 1], first, last + 1)
            for first in range(12)
            for last in range(first, min(12, first + longest))
            if spans[first, 0] >= 0 and spans[last, 0] >= 0
        ]
        assert _best_span(spans, logits, longest) == max(allowed)
