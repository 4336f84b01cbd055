"""A new vocabulary for old weights: shared pieces keep their rows, others begin as the mean of old ones."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.interop.vocabulary import Origins, first_moved, origins
from data_pipeline import tokenizer
from data_pipeline.config import TokenizerConfig
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.conversion import of_vocabulary
from tests.helpers.examples import MINILM, tokenizer_of
from tests.helpers.tokenizers import published

KINDS = ["unigram", "bpe, cased", "wordpiece", "byte_bpe", "minilm", "xlm_roberta", "roberta"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@functools.cache
def words_of(kind: str) -> Tokenizer:
    return tokenizer.load(published(kind)) if "roberta" in kind else tokenizer_of(kind)


@functools.cache
def found(old: str, new: str) -> Origins:
    return origins(words_of(old), words_of(new))


def wordpiece(*pieces: str, lowercase: bool = True) -> Tokenizer:
    content = "\n".join([*SPECIAL, *pieces]).encode()
    return Tokenizer(of_vocabulary(content, lowercase=lowercase, stated={}))


def named(old: Tokenizer, new: Tokenizer) -> dict[str, list[str]]:
    """Pieces by piece."""
    parts = origins(old, new).parts
    return {piece: [old.pieces[i] for i in part] for piece, part in zip(new.pieces, parts, strict=True)}


pairs = pytest.mark.parametrize(("old", "new"), [(old, new) for old in KINDS for new in KINDS])


@pytest.mark.long
@pairs
def test_shared_pieces_are_copied_and_special_ones_by_their_role(old: str, new: str):
    theirs, ours, parts = words_of(old), words_of(new), found(old, new).parts
    assert len(parts) == ours.vocab_size
    for role in ("pad", "cls", "sep", "mask"):
        assert parts[getattr(ours.special_tokens, role)] == [getattr(theirs.special_tokens, role)]
    ordinary = [id for id in range(ours.vocab_size) if id not in ours.special_tokens.ids]
    assert not {*theirs.special_tokens.ids} & {part for id in ordinary for part in parts[id]}
    if ours.spelling == theirs.spelling:
        both = [id for id in ordinary if ours.pieces[id] in theirs.ids]
        assert [parts[id] for id in both] == [[theirs.ids[ours.pieces[id]]] for id in both]
    copied = [id for id in ordinary if len(parts[id]) == 1 and theirs.text(parts[id][0]) == ours.text(id)]
    assert len(copied) > 0.3 * min(len(ordinary), 1000)


@pytest.mark.long
@pairs
def test_a_piece_is_made_of_those_of_its_text(old: str, new: str):
    """Whose texts make its own, where no case or accent is lost and nothing is unknown."""
    theirs, ours, parts = words_of(old), words_of(new), found(old, new).parts
    texts = [*map(ours.text, range(ours.vocab_size))]
    readable = [theirs.special_tokens.unk not in ids for ids in theirs.encode_batch(texts)]
    plain = [text.strip().isascii() and text.strip().isalnum() for text in texts]
    checked = [id for id in range(ours.vocab_size) if parts[id] and readable[id] and plain[id]]
    assert len(checked) > 300
    for id in checked:
        joined = "".join(map(theirs.text, parts[id]))
        assert joined.strip().lower() == texts[id].strip().lower()
        assert not texts[id].startswith(" ") or joined.startswith(" ")


def test_the_same_word_begins_or_goes_on_in_every_spelling():
    """un ##able, ▁un able and Ġun able are the same pieces."""
    old = wordpiece("the", "un", "##able", "able", "##s", ".", "##.")
    bpe = {"Ġthe": 0, "Ġ": 1, "able": 2, "s": 3, "Ġables": 4, ".": 5, "Ġ.": 6, "Ċ": 7, "Ã": 8}
    bpe |= {name: 9 + i for i, name in enumerate(SPECIAL)}
    described = json.loads(published("roberta").joinpath("tokenizer.json").read_text())
    described["model"] |= {"vocab": bpe, "merges": []}
    described |= {"added_tokens": [], "post_processor": None}
    made = named(old, Tokenizer({"tokenizer.json": json.dumps(described).encode()}))
    assert made["Ġthe"] == ["the"]
    assert made["able"] == ["##able"]
    assert made["Ġables"] == ["able", "##s"]
    assert made["s"] == ["##s"]
    assert made["."] == made["Ġ."] == ["."], "BERT never has ##. in a text"
    assert made["Ġ"] == made["Ċ"] == made["Ã"] == []


def test_what_the_old_one_cannot_read_has_no_parts():
    made = named(wordpiece("a", "##b"), wordpiece("ab", "b", "##b", "##ab", "##a", "ac", "[unused0]"))
    assert made["ab"] == ["a", "##b"]
    assert made["##b"] == ["##b"]
    assert made["b"] == made["##ab"] == made["##a"] == made["ac"] == made["[unused0]"] == []


def test_a_cased_vocabulary_is_made_of_lower_case():
    made = named(wordpiece("paris", "##is"), wordpiece("Paris", "##IS", "paris", lowercase=False))
    assert (made["Paris"], made["##IS"], made["paris"]) == (["paris"], ["##is"], ["paris"])


def test_bytes_are_copied():
    """Pieces that are a part of a character, which have no text."""
    old, new = words_of("byte_bpe"), words_of("roberta")
    parts = found("byte_bpe", "roberta").parts
    assert [old.pieces[i] for i in parts[new.ids["Ã"]]] == ["Ã"]
    assert found("byte_bpe", "roberta").copied > 1000
    assert not any(not part for part in parts)


# Rows


def test_rows_are_copied_or_means():
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    made = Origins([[3], [0, 2], [], [1, 1, 5]], np.array([1, 2, 3]), copied=1).rows(rows, size=6)
    np.testing.assert_allclose(made, [[6, 7], [2, 3], [4, 5], [14 / 3, 17 / 3], [0, 0], [0, 0]], rtol=1e-6)
    assert made.dtype == np.float32
    bias = Origins([[1], [0, 1]], np.array([0, 1]), copied=1).rows(np.array([2.0, 4.0]), size=2)
    assert bias.tolist() == [4, 3]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=20), st.integers(0, 3))
def test_any_rows(parts: list[list[int]], padding: int):
    rows = np.random.default_rng(0).normal(size=(10, 3))
    made = Origins(parts, np.arange(10), copied=0).rows(rows, size=len(parts) + padding)
    expected = [rows[part].mean(axis=0) if part else rows.mean(axis=0) for part in parts]
    np.testing.assert_allclose(made[: len(parts)], expected)
    assert not made[len(parts) :].any()


def test_of_itself_every_row_is_the_same():
    rows = np.random.default_rng(0).normal(size=(30522, 4)).astype(np.float32)
    same = found("minilm", "minilm")
    assert same.rows(rows, size=30592)[:30522].tobytes() == rows.tobytes()
    assert str(same) == "30,522 pieces copied, 0 made of others, 0 of the mean of all"


# Extending


def test_only_unused_pieces_may_have_gone():
    old = wordpiece("[unused0]", "a", "b")
    assert first_moved(old, wordpiece("new", "a", "b", "c")) is None
    assert first_moved(old, wordpiece("[unused0]", "b", "a")) == 6
    assert first_moved(old, wordpiece("[unused0]", "a")) == 7


def test_an_extended_one_has_the_old_rows_and_new_ones_of_their_text():
    old = tokenizer.load(MINILM)
    config = TokenizerConfig(vocab_file=str(MINILM / "tokenizer.json"), added_tokens=("bertjax", "##jaxx"))
    new = tokenizer.train(config, list)
    parts = origins(old, new).parts
    assert [id for id, part in enumerate(parts) if part != [id]] == [1, 2]
    assert [old.pieces[i] for i in parts[1]] == ["bert", "##ja", "##x"]
    assert [old.pieces[i] for i in parts[2]] == ["##ja", "##xx"]


def test_a_word_of_a_byte_level_tokenizer_is_made_with_the_space_before_it(tmp_path: Path):
    file = published("roberta") / "tokenizer.json"
    old = tokenizer.load(published("roberta"))
    new = tokenizer.train(TokenizerConfig(vocab_file=str(file), added_tokens=("theory",)), list)
    (part,) = (part for id, part in enumerate(origins(old, new).parts) if part != [id])
    assert part == old.encode_batch([" theory"])[0]
