"""Texts to pieces: special ones never come from a text, and whatever a tokenizer was set to is left alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bert_jax.tasks import pieces as tasks_pieces
from bert_jax.tasks.pieces import Pieces
from data_pipeline.tokenizer import SPECIAL_PIECES
from tests.helpers.examples import AWKWARD_WORDS, KINDS, tokenizer_of


def names(kind: str, ids: list[int]) -> list[str]:
    return [tokenizer_of(kind).pieces[i] for i in ids]


def test_special_pieces_of_a_text_are_words_like_others():
    (ids,) = Pieces(tokenizer_of("minilm")).of_texts(["a[SEP]b"])
    assert names("minilm", ids) == ["a", "[", "sep", "]", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_way_to_pieces_gives_a_special_one(kind: str):
    """[UNK] stands in its place where a SentencePiece model has it among its own."""
    awkward = "a [SEP] b[CLS][MASK] [PAD] [UNK] <s> [sep]"
    pieces = Pieces(tokenizer_of(kind))
    (of_text,), ((with_spans, _),) = pieces.of_texts([awkward]), pieces.with_spans([awkward])
    (of_words,) = pieces.of_words([awkward.split()])
    assert of_text == with_spans
    for ids in (of_text, [i for word in of_words for i in word]):
        assert not {*names(kind, ids)} & ({*SPECIAL_PIECES} - {"[UNK]"})


def test_the_callers_tokenizer_stays_as_it_is():
    tokenizer = tokenizer_of("minilm")
    saved = json.loads(tokenizer.files["tokenizer.json"])
    assert saved["truncation"]
    assert saved["padding"]
    before = tokenizer.huggingface.to_str(), tokenizer.huggingface.encode_special_tokens
    (ids,) = Pieces(tokenizer).of_texts(["word " * 300])
    assert len(ids) == 300
    assert (tokenizer.huggingface.to_str(), tokenizer.huggingface.encode_special_tokens) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_span_is_of_the_texts_own_characters(kind: str):
    """Spans are in order and none begins with a space; together they cover whatever is written."""
    for text in [" ".join(AWKWARD_WORDS), "\x08\x01 Ada", "  two  spaces ", "cafe\u0301 of Zoë", ""]:
        ((ids, spans),) = Pieces(tokenizer_of(kind)).with_spans([text])
        assert spans.shape == (len(ids), 2)
        found = spans[spans[:, 0] >= 0]
        assert (np.diff(found[:, 0]) >= 0).all()
        assert not any(text[start].isspace() for start, _ in found)
        covered = {column for start, end in found for column in range(start, end)}
        assert all(i in covered for i, character in enumerate(text) if character.isalnum())


def test_many_texts_are_encoded_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks_pieces, "ENCODED_AT_ONCE", 2)
    pieces = Pieces(tokenizer_of("minilm"))
    assert [names("minilm", ids) for ids in pieces.of_texts([*"abcde"])] == [[x] for x in "abcde"]
    assert [len(words) for words in pieces.of_words([["a"], ["b", "c"], []])] == [1, 2, 0]
