"""Question answering: from every source to windows of a context, and back to the context's own characters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bert_jax.config import QuestionAnsweringConfig
from bert_jax.tasks import question_answering
from bert_jax.tasks.features import Features
from bert_jax.tasks.question_answering import _best_span, predict, read, read_stdin
from bert_jax.tasks.records import Empty
from bert_jax.tasks.squad import Answer, Question
from tests.helpers.examples import (
    AWKWARD_WORDS,
    KINDS,
    assert_theirs,
    features_of,
    perfect_logits,
    pieces,
    question,
    round_trip,
    squad,
    theirs,
    words,
    write,
)

SETTINGS = QuestionAnsweringConfig()


def settings_of(S: int = 32, *, stride: int = 4, longest_answer: int = 30) -> QuestionAnsweringConfig:
    return QuestionAnsweringConfig(sequence_length=S, stride=stride, longest_answer=longest_answer)


# Files


def test_squad_has_answers_by_several_people_and_questions_without_one(tmp_path: Path):
    answers = [{"text": "Paris", "answer_start": 0}, {"text": "France", "answer_start": 12}]
    content = squad(
        {"id": "q1", "question": "Where?", "answers": answers},
        {"id": "q2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": answers},
    )
    for name in ("a.json", "a.json.gz"):
        path = write(tmp_path, name, content)
        context = "Paris is in France."
        assert read(path, SETTINGS) == [
            Question(f"{path} row 1", "q1", "Where?", context, (Answer("Paris", 0), Answer("France", 12))),
            Question(f"{path} row 2", "q2", "Who?", context, ()),
        ]


def test_questions_of_json_lines_may_lack_an_id(tmp_path: Path):
    flat = {"question": "Where?", "context": "In Rome.", "answers": {"text": ["Rome"], "answer_start": [3]}}
    rows = [{"id": "q1"} | flat, flat]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path, SETTINGS) == [
        Question(f"{path} line 1", "q1", "Where?", "In Rome.", (Answer("Rome", 3),)),
        Question(f"{path} line 2", "2", "Where?", "In Rome.", (Answer("Rome", 3),)),
    ]


def test_questions_to_predict_need_no_answers(tmp_path: Path):
    path = write(tmp_path, "a.json", squad({"id": "q1", "question": "Where?"}))
    assert read(path, SETTINGS, labelled=False) == [
        Question(f"{path} row 1", "q1", "Where?", "Paris is in France.", None)
    ]


def test_an_answer_starts_at_a_character_whatever_bytes_or_marks_are_before_it(tmp_path: Path):
    context = "👩‍👩‍👧 e\u0301\ufeff 東京 Rome"
    answer = {"text": "Rome", "answer_start": context.index("Rome")}
    path = write(
        tmp_path, "a.json", squad({"id": "q", "question": "Where?", "answers": [answer]}, context=context)
    )
    (example,) = read(path, SETTINGS)
    assert "\ufeff" not in example.context
    assert example.context[example.answers[0].start :] == "Rome"


def asked(*answers: tuple[str, object], **changes: object) -> str:
    """SQuAD with one question, q1."""
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return squad({"id": "q1", "question": "Where?", "answers": given} | changes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            asked(("Rome", 0)),
            r"a\.json row 1, question 'q1': the answer 'Rome' is not at character 0",
        ),
        (
            "a.json",
            asked(("Paris", 1)),
            r"question 'q1': the answer 'Paris' is not at character 1, but at 0: --task\.find-answers",
        ),
        ("a.json", asked((" Paris", 0)), r"question 'q1': the answer ' Paris' is not at character 0"),
        ("a.json", asked(("France.", -7)), r"question 'q1': the answer 'France\.' is not at character -7"),
        ("a.json", asked(("Paris", "0 ch")), r"the answer 'Paris' is not at character '0 ch', but at 0: "),
        ("a.json", asked(("Paris", 3)), r"at character 3, but at 0: --task\.find-answers takes that"),
        ("a.json", asked(("Paris", None)), r"at character None, but at 0: --task\.find-answers takes that"),
        ("a.json", asked(("Paris", True)), r"at character True, but at 0: --task\.find-answers takes that"),
        ("a.json", asked(("is", 1)), r"'is' is not at character 1, but 2 times in the context: correct the"),
        ("a.json", asked(("", 0)), r"question 'q1': the answer '' is no text; 'answers' is \[\] where there"),
        (
            "a.json",
            asked(is_impossible="no"),
            r"question 'q1': 'is_impossible' is 'no', neither true nor false",
        ),
        ("a.json", asked(is_impossible=2), r"question 'q1': 'is_impossible' is 2, neither true nor false"),
        ("a.json", asked(answers=["Paris"]), r"question 'q1': 'answers' is neither \[\{'text': "),
        ("a.json", asked(answers="Paris"), r"question 'q1': 'answers' is neither \[\{'text': "),
        ("a.jsonl", '{"question": "?", "context": "a"}', r"line 1, question '1' has no column 'answers'"),
        ("a.json", asked(question=" "), r"a\.json row 1, question 'q1': 'question' is empty"),
        ("a.json", squad({"id": "q1", "question": "?"}, context=""), r"question 'q1': 'context' is empty"),
        ("a.json", squad({"id": "q1", "question": "Where?"}), r"question 'q1' has no column 'answers'"),
        (
            "a.json",
            squad(*2 * [{"id": "q1", "question": "Where?", "answers": []}]),
            r"a\.json row 2: the id 'q1' is that of .*a\.json row 1 too",
        ),
        ("a.json", '{"data": [{"title": "Paris"}]}', r"a\.json does not have SQuAD's form.*'paragraphs'"),
        ("a.json", "[]", r"a\.json does not have SQuAD's form"),
        (
            "a.json",
            '{"data": [{"paragraphs": [{"context": "a", "qas": ["q"]}]}]}',
            r"does not have SQuAD's form",
        ),
        ("a.json", '{"data": []}', r"a\.json has no examples"),
        ("a.json", '{"data":\n[', r"a\.json: not JSON \(.*line 2"),
        ("a.json", b'{"data":\n"\xff"}', r"a\.json line 2: not valid UTF-8"),
        ("a.jsonl", '{"question": "?", "answers": []}', r"line 1, question '1' has no column 'context'"),
        (
            "a.jsonl",
            '{"question": "?", "context": "a", "answers": {"text": ["a"], "answer_start": []}}',
            r"a\.jsonl line 1, question '1': 'answers' is neither .* with as many of each$",
        ),
        (
            "a.tsv",
            "question\tcontext\n?\ta\n",
            r"a\.tsv' is no source of question_answering examples; .*\.json, \.jsonl, each",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_row(
    tmp_path: Path, name: str, content: str | bytes, message: str
):
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path, name, content), SETTINGS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("start", ["12", " 12 ", 12.0, "12.0", "12."])
def test_a_start_is_a_number_however_it_is_written(tmp_path: Path, start: object):
    (example,) = read(write(tmp_path, "a.json", asked(("France", start))), SETTINGS)
    assert example.answers == (Answer("France", 12),)


PARIS = (Answer("Paris", 0),)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("columns", "answers"),
    [
        ({"answers": {"text": ["Paris"], "answer_start": [0]}}, PARIS),  # Hugging Face's
        ({"answers": [{"text": "Paris", "answer_start": "0.0"}]}, PARIS),  # SQuAD's
        ({"answers": [{"text": "Paris", "answer_start": 0}] * 2}, PARIS * 2),
        ({"answers": {"text": [], "answer_start": []}}, ()),
        ({"answers": []}, ()),
        ({"answers": {}}, ()),
        ({"answers": None}, ()),
        ({}, ()),
        ({"is_impossible": True}, ()),
        *(
            ({"is_impossible": no, "answers": [{"text": "Paris", "answer_start": 0}]}, PARIS)
            for no in (False, "false", "FALSE", " False ", 0, 0.0, "0", None)
        ),
        *(
            ({"is_impossible": yes, "answers": [{"text": "Paris", "answer_start": 0}]}, ())
            for yes in (True, "true", "TRUE", 1, "1")
        ),
    ],
)
def test_answers_are_read_as_people_have_them(
    tmp_path: Path, name: str, columns: dict[str, Any], answers: tuple[Answer, ...]
):
    """Where others of the file have some, none at all is no answer."""
    context = "Paris is in France."
    rows = [{"question": "Where?", **columns}, {"question": "Who?", "answers": []}]
    content = (
        squad(*rows, context=context)
        if name == "a.json"
        else "\n".join(json.dumps(row | {"context": context}) for row in rows)
    )
    assert [example.answers for example in read(write(tmp_path, name, content), SETTINGS)] == [answers, ()]


def test_a_question_to_predict_has_a_place_though_it_is_empty(tmp_path: Path):
    """Whether answers are there or not."""
    lines = [
        '{"question": "a", "context": "b", "answers": []}',
        "",
        "{}",
        '{"question": "c", "context": "d"}',
    ]
    found = read(write(tmp_path, "a.jsonl", "\n".join(lines)), SETTINGS, labelled=False)
    assert [isinstance(example, Empty) for example in found] == [False, True, True, False]


FINDING = dataclasses.replace(SETTINGS, find_answers=True)


@pytest.mark.parametrize(
    ("context", "start", "place"),
    [
        ("Paris is in France.", 0, 12),  # its only place
        ("Paris is in France.", None, 12),
        ("Paris is in France.", "?", 12),
        ("😀😀 France, France", 5, 3),  # counted in UTF-16, as JavaScript does
        ("😀😀 France, France", 13, 11),
        ("Où ça? France, France", 9, 7),  # counted in bytes
    ],
)
def test_an_answer_is_found_where_that_is_asked_for(tmp_path: Path, context: str, start: object, place: int):
    answer = {"text": "France", "answer_start": start}
    path = write(
        tmp_path, "a.json", squad({"id": "q", "question": "Where?", "answers": [answer]}, context=context)
    )
    with pytest.raises(ValueError, match=rf"but at {place}: --task\.find-answers takes that"):
        read(path, SETTINGS)
    (example,) = read(path, FINDING)
    assert example.answers == (Answer("France", place),)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("Nothing of it.", "and nowhere in the context: write it as it is there, or leave the question out$"),
        ("France, France, France", "but 3 times in the context: correct the character, to that of the one"),
    ],
)
def test_an_answer_that_is_nowhere_or_anywhere_is_refused(tmp_path: Path, context: str, message: str):
    answer = {"text": "France", "answer_start": 4}
    path = write(
        tmp_path, "a.json", squad({"id": "q", "question": "Where?", "answers": [answer]}, context=context)
    )
    for asked_for in (SETTINGS, FINDING):
        with pytest.raises(ValueError, match=f"the answer 'France' is not at character 4, {message}"):
            read(path, asked_for)


# Lines of standard input


def test_a_line_is_an_object():
    line = '\ufeff{"question": "Where?", "context": "In Rome.", "id": 7}\r\n'
    assert [*read_stdin([line.encode()], SETTINGS)] == [
        Question("standard input line 1", "7", "Where?", "In Rome.")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Who?", r'line 2: not JSON .*; the model wants an object a line, \{"question": "...", "context'),
        (b"[" * 100_000, "line 2: not JSON"),
        (b"[1]", "line 2: not a JSON object; the model wants"),
        (b'{"question": 5, "context": "a"}', "line 2, question '2': 'question' is 5, not a text"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(line: bytes, message: str):
    lines = read_stdin([b'{"question": "Where?", "context": "a"}\n', line], SETTINGS)
    next(lines)
    with pytest.raises(ValueError, match=f"standard input {message}") as error:
        next(lines)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("context", [b', "context": " "', b', "context": null', b""])
def test_an_empty_context_has_a_place(context: bytes):
    asked = b'{"question": "Who?", "context": "Ada"}\n'
    first, empty, last = read_stdin([asked, b'{"question": "Who?"' + context + b"}\n", asked], SETTINGS)
    assert empty == Empty("standard input line 2", "standard input line 2, question '2': 'context' is empty")
    assert (first.id, last.id, last.context) == ("1", "3", "Ada")


def test_one_that_is_typed_needs_its_context():
    assert question_answering.example("who?", "Ada", SETTINGS) == Question("the question", "0", "who?", "Ada")
    with pytest.raises(ValueError, match="give the context of the question with --pair"):
        question_answering.example("who?", None, SETTINGS)


# TFDS


@pytest.fixture
def small_questions(store_tfds: Callable[..., None]) -> str:
    """Shaped like TFDS's squad."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
    store_tfds(
        "small_questions",
        {"id": text, "question": text, "context": text, "answers": answers},
        train=[
            {
                "id": "q1",
                "question": "Where?",
                "context": "東京 or Rome",
                "answers": {"text": ["東京", "Rome"], "answer_start": [0, 6]},
            },
            {"id": "q2", "question": "Who?", "context": "No.", "answers": {"text": [], "answer_start": []}},
        ],
    )
    return "tfds:small_questions"


def test_tfds_gives_the_same_examples_as_files(small_questions: str):
    source = f"{small_questions}:train"
    answers = (Answer("東京", 0), Answer("Rome", 6))
    assert read(source, SETTINGS) == [
        Question(f"{source} record 1", "q1", "Where?", "東京 or Rome", answers),
        Question(f"{source} record 2", "q2", "Who?", "No.", ()),
    ]


# Windows


@given(st.data(), st.lists(st.lists(words, max_size=40).map(" ".join), min_size=1, max_size=3))
@settings(deadline=None)
def test_windows_are_hugging_faces(data: st.DataObject, contexts: list[str]):
    S = data.draw(st.integers(16, 48))
    stride = data.draw(st.integers(0, S - 4 - S // 4))
    asked = data.draw(st.sampled_from(["", "who?", "3.14"]))
    features = features_of(settings_of(S, stride=stride), [question(c, question=asked) for c in contexts])
    encoded = theirs()(
        [asked] * len(contexts),
        contexts,
        truncation="only_second",
        max_length=S,
        stride=stride,
        padding="max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert_theirs(features, encoded)
    assert features.examples_N.tolist() == encoded["overflow_to_sample_mapping"]
    for row, offsets in enumerate(encoded["offset_mapping"]):
        of_context = [side == 1 for side in encoded.sequence_ids(row)]
        expected = [span if c else (-1, -1) for span, c in zip(offsets, of_context, strict=True)]
        assert list(map(tuple, features.places[row].tolist())) == expected


def test_a_question_leaves_room_for_the_context():
    """It has 64 tokens at most, and a quarter of a short row."""
    example = question("context", question="why " * 100)
    assert pieces(features_of(settings_of(40), [example])).count("why") == 10
    assert pieces(features_of(settings_of(384), [example])).count("why") == 64


def test_a_question_may_be_cut_and_a_context_loses_nothing():
    """Of a row of 32, a question has 8."""
    examples = [
        Question("row 1", "1", "a b c d e f g h", "a b c " * 20),
        Question("row 2", "2", "a b c d e f g h i", "a b c " * 20),
    ]
    assert features_of(settings_of(32), examples).cut == ["row 2"]


def test_a_window_is_longer_than_what_it_shares():
    features_of(settings_of(40, stride=26), [question("a")])
    with pytest.raises(ValueError, match=r"^task.stride is 27; .* has 27 for the context"):
        features_of(settings_of(40, stride=27), [question("a")])


# Labels


def answers_of(features: Features, context: str) -> list[str | None]:
    """What the labels of each row say, in the context's own characters."""
    found = []
    for (first, last), spans in zip(features.arrays["labels"], features.places, strict=True):
        found.append(context[spans[first, 0] : spans[last, 1]] if first else None)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("It was Ada Lovelace, of London.", "Ada Lovelace"),
        ("İstanbul İİ and İzmir are far", "İzmir"),  # lower-cased, İ is two characters
        ("a 😀 and a 👩‍👩‍👧 and Ada there", "Ada"),
        ("café and cafe\u0301 and naïve Zoë", "naïve"),
        ("the e\u0301 of cafe\u0301 is acute", "cafe\u0301"),  # a combining accent is of its letter
        ("in हिन्दी is written so", "हिन्दी"),
        ("  two  spaces \n and Ada  ", "Ada"),
        ("東京タワー is tall", "東京タワー"),
        ("zero\u200bwidth and\u00a0Ada\u00a0there", "Ada"),
        ("\x00control \x1f and Ada", "Ada"),
        ("\x08\x01 Ada and \x08Bob", "Ada"),
        ("[SEP] Ada [MASK]", "Ada"),
        ("it is ½ or ①", "½"),
        ("Ada", "Ada"),
    ],
)
def test_the_columns_of_an_answer_are_its_characters(kind: str, context: str, answer: str):
    features = features_of(settings_of(128), [question(context, answer)], kind=kind)
    assert answers_of(features, context) == [answer]


def test_an_answer_inside_a_piece_takes_the_whole_piece():
    context = "the unaffordable houses"
    features = features_of(settings_of(), [question(context, "ford"), question(context, "able house")])
    assert pieces(features)[4:-1] == ["the", "una", "##ff", "##ord", "##able", "houses"]
    assert answers_of(features, context) == ["fford", "able houses"]


def test_the_first_of_several_answers_is_learned():
    context = "in 1912 or 1913"
    features = features_of(settings_of(), [question(context, "1913", "1912")])
    assert answers_of(features, context) == ["1913"]
    assert features.arrays["labels"].dtype == np.int32
    assert features.arrays["weights"].tolist() == [1]


def test_no_answer_is_cls():
    features = features_of(settings_of(), [question("a b c"), question("a b c", "b")])
    assert features.arrays["labels"].tolist() == [[0, 0], [5, 5]]
    assert features.arrays["weights"].tolist() == [1, 1]


@pytest.mark.parametrize("context", ["", "  ", "\u200d"])
def test_an_answer_without_a_piece_is_none(context: str):
    features = features_of(settings_of(), [question(context, context)])
    assert features.arrays["labels"].tolist() == [[0, 0]]


def test_an_answer_is_in_the_windows_that_hold_all_of_it():
    context = " ".join("abcdefghijklmnop")  # windows of 10, 5 of them shared: a-j, f-o, k-p

    def answers(answer: str) -> list[str | None]:
        asked = question(context, answer, question="")
        return answers_of(features_of(settings_of(13, stride=5), [asked]), context)

    assert answers("i j k") == [None, "i j k", None]
    assert answers("h i") == ["h i", "h i", None]
    assert answers("e f g h i j k") == [None, None, None]


# Predictions

context_words = st.one_of(
    st.sampled_from([word for word in AWKWARD_WORDS if len(word) < 20]),
    st.sampled_from(
        ["the", "unaffordable", "café", "Tokyo's", "3.14", "naïvely", "(Zoë)", "हिन्दी", "½", "ﬁne"]
    ),
    st.text(max_size=6),
)
spaces = st.sampled_from([" ", "  ", "\n", "\t ", "\u00a0", "\u3000"])


@st.composite
def answered(draw: Any) -> tuple[str, Answer]:
    """A context of awkward words, and an answer of some of them."""
    words = draw(st.lists(context_words, min_size=1, max_size=25))
    gaps = draw(st.lists(spaces, min_size=len(words), max_size=len(words)))
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, min(first + 4, len(words) - 1)))
    starts = np.cumsum([0, *(len(w) + len(g) for w, g in zip(words, gaps, strict=True))]).tolist()
    context = "".join(w + g for w, g in zip(words, gaps, strict=True))
    answer = context[starts[first] : starts[last] + len(words[last])]
    return context, Answer(answer, starts[first])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@given(answered())
@settings(deadline=None, max_examples=60)
def test_an_answer_comes_back(kind: str, drawn: tuple[str, Answer]):
    """All of it that has pieces, with no more than the rest of the pieces at its ends."""
    context, answer = drawn
    settings = settings_of(64, stride=12, longest_answer=64)
    examples = [question(context, answer)]
    features = features_of(settings, examples, kind=kind)
    assume(features.arrays["labels"].any())  # it has a piece, and a window holds all of it
    (said,) = predict(examples, features, perfect_logits(settings, features), settings)
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
def test_an_answer_is_in_the_contexts_own_characters(kind: str, context: str, answer: str):
    (said,) = round_trip(settings_of(64, stride=8), [question(context, answer)], kind=kind)
    assert (said["id"], said["answer"], said["start"]) == ("q1", answer, context.index(answer))
    assert (said["score"], said["no_answer_score"]) == (20, 0)


def test_an_answer_is_found_in_whichever_window_has_it():
    contexts = [" ".join("abcdefghijklmnopqrstuvwxyz"), "short"]
    questions = [
        Question("", f"{context} {letter}", "", context, (Answer(letter, context.index(letter)),))
        for context in contexts
        for letter in context.split()
    ]
    said = round_trip(settings_of(13), questions)
    assert [one["answer"] for one in said] == [*"abcdefghijklmnopqrstuvwxyz", "short"]
    assert [one["id"] for one in said] == [one.id for one in questions]


def test_no_answer():
    long = " ".join("abcdefghijklmnopqrstuvwxyz")
    for context in ("a b c", long, "", "  ", "\u200d"):
        (said,) = round_trip(settings_of(16), [question(context)])
        assert (said["answer"], said["start"], said["no_answer_score"]) == ("", None, 20)
        assert said["score"] == (0 if context.split() and context != "\u200d" else None)


def window(context: str, *, S: int = 16) -> tuple[list[Question], Features]:
    """`[CLS] who ? [SEP] a b c ... [SEP]`: the context starts in column 4."""
    examples = [question(context)]
    return examples, features_of(settings_of(S, stride=0), examples)


def say(context: str, logits: dict[tuple[int, int], float], *, longest_answer: int = 30, S: int = 16) -> str:
    """With a logit for (column, 0: start or 1: end), of the first row; all others are 0."""
    examples, features = window(context, S=S)
    logits_NxSx2 = np.zeros((len(features.examples_N), S, 2), np.float32)
    for place, logit in logits.items():
        logits_NxSx2[(0, *place)] = logit
    (said,) = predict(examples, features, logits_NxSx2, settings_of(S, longest_answer=longest_answer))
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
    (said,) = predict(examples, features, logits, SETTINGS)
    assert (said["no_answer_score"], said["score"]) == (0, 4)
    logits[1, 0] = 3
    (said,) = predict(examples, features, logits, SETTINGS)
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
def test_the_best_span_is_the_best_of_all(longest: int):
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


# Scores, as SQuAD 2.0's evaluate-v2.0.py


@pytest.mark.filterwarnings("error")
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
def test_scores_of_an_answer(truth: list[str], said: str, exact: float, f1: float):
    example = Question("", "q", "?", "", tuple(Answer(answer, 0) for answer in truth))
    scores = question_answering.score([example], [{"answer": said}], SETTINGS)
    assert scores == pytest.approx({"exact_match": exact, "f1": f1})


@pytest.mark.filterwarnings("error")
def test_scores_of_answers_are_means():
    examples = [question("Ada was there", "Ada"), question("nobody"), question("x y", "x y")]
    said = [{"answer": "Ada"}, {"answer": "nobody"}, {"answer": "x"}]
    scores = question_answering.score(examples, said, SETTINGS)
    assert scores == pytest.approx({"exact_match": 1 / 3, "f1": 5 / 9})
