"""A tokenizer gets more pieces: old texts keep their ids, new words are one piece, Transformers agrees."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest
import transformers

from bert_jax.config import Config
from data_pipeline import tokenizer
from data_pipeline.config import TokenizerConfig
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.tokenizer import Tokenizer
from tests.helpers.examples import MINILM
from tests.helpers.tokenizers import PUBLISHED, lines, published

NEW = ("bertjaxium", "quuxification")
FILES = {kind: functools.partial(published, kind) for kind in PUBLISHED} | {"minilm": lambda: MINILM}


@functools.cache
def before(kind: str) -> Tokenizer:
    return tokenizer.load(FILES[kind]())


@functools.cache
def extended(kind: str, *added: str) -> Tokenizer:
    file = FILES[kind]() / "tokenizer.json"
    return tokenizer.train(TokenizerConfig(vocab_file=str(file), added_tokens=added or NEW), list)


each_kind = pytest.mark.parametrize("kind", FILES)


@pytest.mark.long
@each_kind
def test_old_pieces_and_texts_keep_their_ids(kind: str):
    old, new = before(kind), extended(kind)
    gone = {"[unused0]", "[unused1]"} & {*old.pieces}
    assert {piece for piece, id in old.ids.items() if new.ids.get(piece) != id} == gone
    assert new.special_tokens == old.special_tokens
    assert new.encode_batch(lines()[:500]) == old.encode_batch(lines()[:500])


@each_kind
def test_new_words_are_one_piece_in_unused_slots_or_behind_the_last(kind: str):
    old, new = before(kind), extended(kind)
    if kind in ("minilm", "modernbert"):
        assert new.vocab_size == old.vocab_size
        assert [old.pieces[new.ids[word]] for word in NEW] == ["[unused0]", "[unused1]"]
    else:
        assert [new.ids[word] for word in NEW] == [old.vocab_size, old.vocab_size + 1]
    (ids,) = new.encode_batch(["a bertjaxium, and no quuxification: bertjaxiums"])
    within = 1 if kind in ("minilm", "wordpiece") else 0  # of a longer word too
    assert [ids.count(new.ids[word]) for word in NEW] == [1 + within, 1]
    continues, _ = new.word_marks
    assert not continues[[new.ids[word] for word in NEW]].any()
    assert [new.text(new.ids[word]) for word in NEW] == [f" {word}" for word in NEW]


@each_kind
def test_transformers_reads_the_folder(kind: str, tmp_path: Path):
    words = extended(kind)
    words.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*lines()[:100], "one bertjaxium more. quuxification", "bertjaxium"]
    assert theirs(texts, add_special_tokens=False)["input_ids"] == words.encode_batch(texts)
    assert len(theirs) == len(words.ids)


def test_a_vocabulary_of_wordpiece_may_get_continuations(tmp_path: Path):
    (tmp_path / "vocab.txt").write_bytes((MINILM / "vocab.txt").read_bytes())
    asked = TokenizerConfig(
        kind="wordpiece", vocab_file=str(tmp_path / "vocab.txt"), added_tokens=("##quuxify", "flumph")
    )
    words = tokenizer.train(asked, list)
    (ids,) = words.encode_batch(["flumphquuxify"])
    assert [words.pieces[id] for id in ids] == ["flumph", "##quuxify"]
    assert words.files["vocab.txt"].decode().split("\n")[1:3] == ["##quuxify", "flumph"]
    assert words.sha256 != before("minilm").sha256


def test_more_pieces_than_slots_go_behind_the_last(tmp_path: Path):
    vocabulary = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    asked = TokenizerConfig(
        kind="wordpiece", vocab_file=str(tmp_path / "vocab.txt"), added_tokens=("c", "d", "e")
    )
    assert tokenizer.train(asked, list).pieces == ["[PAD]", "c", *vocabulary[2:], "d", "e"]


def test_one_that_was_trained_here_can_be_extended(config: Config):
    """SentencePiece's own model has no added tokens, and is left out: some ties, as in ---, end otherwise."""
    asked = dataclasses.replace(
        config.data.tokenizer, vocab_file=f"{config.data.dir}/tokenizer/tokenizer.json", added_tokens=NEW
    )
    old, new = tokenizer.load(Path(config.data.dir) / "tokenizer"), tokenizer.train(asked, list)
    pairs = zip(new.encode_batch(lines()[:500]), old.encode_batch(lines()[:500]), strict=True)
    assert sum(sorted(one) == sorted(other) for one, other in pairs) >= 495
    assert new.encode_batch([NEW[1]]) == [[old.vocab_size + 1]]
    assert "spiece.model" not in new.files


def test_a_dataset_knows_what_its_tokenizer_got(config: Config, tmp_path: Path):
    words = TokenizerConfig(vocab_file=str(MINILM / "tokenizer.json"), added_tokens=NEW)
    data = dataclasses.replace(config.data, tokenizer=words, dir=str(tmp_path / "data"))
    manifest = prepare(data)
    assert manifest == Manifest.load(tmp_path / "data")
    assert manifest.config(tmp_path / "data").tokenizer == words
    manifest.check(data)
    with pytest.raises(ValueError, match=r"was prepared with data\.tokenizer="):
        manifest.check(dataclasses.replace(data, tokenizer=dataclasses.replace(words, added_tokens=())))
    saved = json.loads((tmp_path / "data/tokenizer/tokenizer.json").read_text())
    assert {"bertjaxium": 1, "quuxification": 2}.items() <= saved["model"]["vocab"].items()


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (("the",), "'the', which is a piece of data.tokenizer.vocab_file already"),
        (("new-word",), "'new-word', which no text would have: the tokenizer makes 'new - word' of it"),
        (("Flumph",), "'Flumph', which no text would have: .* as it normalizes it"),
    ],
)
def test_what_would_never_be_found_is_refused(added: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        extended("minilm", *added)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"added_tokens": ("a",)}, "give data.tokenizer.vocab_file too"),
        ({"added_tokens": ("two words",), "vocab_file": "x"}, "each must be a word, and none twice"),
        ({"added_tokens": ("a", "a"), "vocab_file": "x"}, "each must be a word, and none twice"),
        ({"added_tokens": ("",), "vocab_file": "x"}, "each must be a word, and none twice"),
    ],
)
def test_what_is_no_list_of_words_is_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**fields)
