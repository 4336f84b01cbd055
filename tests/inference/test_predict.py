"""What models say of new texts, which are checked as all examples are; and a word on those that were cut."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bert_jax.inference import predict as predicting
from bert_jax.inference.fill_mask import Guess
from bert_jax.inference.predict import predictions
from bert_jax.interop.load import load_model


def said(
    folder: Path, *lines: str, file: Path | None = None, top: int = 2, **columns: str
) -> list[dict[str, Any]]:
    given: Iterable[bytes] = [line.encode() + b"\n" for line in lines]
    path = None if file is None else str(file)
    return [*predictions(folder, file=path, lines=given, batch_size=2, top=top, **columns)]


@pytest.fixture
def pairs(folder_of, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that was trained on the columns question1 and question2."""
    folder = folder_of("classification")
    loaded = load_model(folder)
    settings = dataclasses.replace(loaded.network.settings, text="question1", pair="question2")
    network = loaded.network._replace(settings=settings)
    monkeypatch.setattr(predicting, "load_model", lambda folder: loaded._replace(network=network))
    return folder


# Tasks


def test_lines_say_what_a_file_says(folder_of, tmp_path: Path):
    texts = ["the value", "a\u2028name", "\u0000 half"]
    (tmp_path / "a.txt").write_text("\n".join(texts), encoding="utf-8")
    assert said(folder_of("classification"), *texts) == said(
        folder_of("classification"), file=tmp_path / "a.txt"
    )


def test_columns_can_have_other_names(folder_of, pairs: Path, tmp_path: Path):
    """As with a model of others that reads pairs: nothing in its folder says so."""
    rows = [{"question1": "a name", "question2": "the value of a name"}, {"question1": "b", "question2": "c"}]
    known = said(pairs, *map(json.dumps, rows))
    (tmp_path / "a.csv").write_text("id,first,second\n1,a name,the value of a name\n2,b,c\n")
    assert said(pairs, file=tmp_path / "a.csv", text="first", pair="second") == known


def test_a_column_for_which_there_is_no_use_is_refused(folder_of):
    folder = folder_of("token_classification")
    with pytest.raises(ValueError, match=r"--pair 'b': .* is for token_classification and reads no such"):
        said(folder, "a name", pair="b")
    with pytest.raises(ValueError, match=r"--text 'a': .* is for no task and reads no such column"):
        said(folder_of("mlm"), "a [MASK]", text="a")


def test_a_model_for_pairs_reads_both_texts(pairs: Path):
    one, other = said(
        pairs,
        '{"question1": "a name", "question2": "the value of a name"}',
        '{"question1": "a name", "question2": "the method is called"}',
    )
    assert one["scores"] != other["scores"]
    with pytest.raises(
        ValueError, match=r'line 1: not JSON .*an object a line, \{"question1": "...", "quest'
    ):
        said(pairs, "a name")


def test_a_file_without_the_column_of_the_training_is_told_how_to_choose(pairs: Path, tmp_path: Path):
    (tmp_path / "a.tsv").write_text("question1\tother\nhow ?\thow so ?\n")
    with pytest.raises(
        ValueError, match=r"no column 'question2'; it has question1, other; choose one with --pair$"
    ):
        said(pairs, file=tmp_path / "a.tsv")


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "short", "long"),
    [
        ("classification", "a name", "name " * 100),
        ("multi_label", "a name", "name " * 100),
        ("regression", "a name", "name " * 100),
        ("token_classification", "a name", "name " * 100),
        (
            "question_answering",
            '{"question": "what ?", "context": "' + "name " * 100 + '"}',
            '{"question": "' + "what " * 20 + '", "context": "a name"}',
        ),
    ],
)
def test_texts_that_lost_their_end_are_counted(
    kind: str, short: str, long: str, folder_of, caplog: pytest.LogCaptureFixture
):
    """A context is read in windows and loses nothing."""
    with caplog.at_level(logging.WARNING, "bert_jax.inference.predict"):
        said(folder_of(kind), short, short)
        assert not caplog.messages
        assert len(said(folder_of(kind), short, long, short, long)) == 4
    assert caplog.messages == ["cut, because too long: 2, the first is standard input line 2"]


@pytest.mark.parametrize(
    ("kind", "text", "empty", "reason"),
    [
        ("classification", "a name", "", "'sentence' is empty"),
        ("regression", "a name", " \t", "'sentence' is empty"),
        ("token_classification", "a name", " ", "'tokens' has no words"),
        (
            "question_answering",
            '{"question": "what ?", "context": "a name"}',
            '{"question": "", "context": "a name"}',
            "'question' is empty",
        ),
        ("mlm", "the [MASK]", " ", "is empty"),
    ],
)
def test_what_is_empty_has_a_place_among_the_answers_and_is_named_at_the_end(
    kind: str, text: str, empty: str, reason: str, folder_of
):
    lines = [f"{line}\n".encode() for line in (empty, text, empty, empty, text)]
    found = predictions(folder_of(kind), file=None, lines=lines, batch_size=2, top=2)
    answers = [next(found) for _ in lines]
    assert [i for i, answer in enumerate(answers, 1) if "error" in answer] == [1, 3, 4]
    assert answers[0]["error"].startswith("standard input line 1")
    assert answers[0]["error"].endswith(reason)
    places = ", ".join(f"standard input line {number}" for number in (1, 3, 4))
    with pytest.raises(ValueError, match=f"^no answer where something is empty, .*: 3 of 5, {places}$"):
        next(found)


def test_a_file_of_nothing_but_empty_lines_is_named(folder_of, tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n \n\n")
    with pytest.raises(ValueError, match=r"where something is empty|has no examples"):
        said(folder_of("classification"), file=tmp_path / "a.txt")


# A model that was only pretrained


@pytest.mark.parametrize("kind", ["mlm_nsp", "mlm"])
def test_a_pretrained_model_predicts_words(kind: str, folder_of):
    found = said(folder_of(kind), "the [MASK] of [MASK]", "[MASK]", top=3)
    assert found[0]["text"] == "the [MASK] of [MASK]"
    assert [len(guesses) for answer in found for guesses in answer["guesses"]] == [3, 3, 3]
    with pytest.raises(ValueError, match="standard input line 2: the text has no"):
        said(folder_of(kind), "[MASK]", "no mask")


def test_of_two_pieces_that_are_one_word_the_likelier_stays(folder_of, monkeypatch: pytest.MonkeyPatch):
    guesses = [Guess("name", 0.5), Guess("value", 0.2), Guess("name", 0.1)]
    monkeypatch.setattr(predicting, "fill", lambda *_, **__: [guesses])
    (found,) = said(folder_of("mlm_nsp"), "the [MASK]")
    assert list(found["guesses"][0].items()) == [("name", 0.5), ("value", 0.2)]


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_file_for_a_pretrained_model_is_read_as_those_of_tasks_are(packing: str, folder_of, tmp_path: Path):
    raw = "\ufeffone\u2028[MASK]\r\n[MASK] two\0\r\n\r\n".encode()
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(gzip.compress(raw) if packing else raw)
    found = said(folder_of("mlm_nsp"), file=path)
    assert [answer["text"] for answer in found] == ["one\u2028[MASK]", "[MASK] two "]
    raw = b"[MASK]\n[MASK] caf\xe9\n"
    path.write_bytes(gzip.compress(raw) if packing else raw)
    with pytest.raises(ValueError, match=r"a\.txt.* line 2: not valid UTF-8"):
        said(folder_of("mlm_nsp"), file=path)
