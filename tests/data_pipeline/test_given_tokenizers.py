"""Anyone's tokenizer.json is used as it is: its ids, its special tokens, its words, its files."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace as change
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from bert_jax.config import Config
from data_pipeline import masking, tokenizer
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig
from data_pipeline.corpus import documents
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.encoding import split_of
from data_pipeline.tokenizer.spelling import BYTES
from tests.data_pipeline.test_tokenizer import AWKWARD, real_lines
from tests.helpers.paths import SHARED_DATA
from tests.helpers.tokenizers import PUBLISHED, published, write

each_kind = pytest.mark.parametrize("kind", PUBLISHED)

MORE_AWKWARD = [
    *("two  spaces", "three   spaces   here", " one before", "one behind ", "\ttabs\t\tand spaces \t x"),
    *(
        "a\nnew\n\nline",
        "NUL\x00 in it",
        "don't we'll I'M 'tis",
        "no\u00a0break \u00a0 space",
        "  \u3000 wide",
    ),
    *("<s> and </s> and <mask>, <pad><unk>", "[CLS] [SEP][MASK] [PAD]", "<|endoftext|>", "e\u0301 \u0301 x"),
    *("|||EMAIL_ADDRESS||| [unused3]", "x" * 5000, "\u180e mongolian\u180e x", "ΣΑΣ ΌΣΟΣ", "ﬁ ﷺ ½ \u0345"),
]


@functools.cache
def given_(kind: str) -> Tokenizer:
    return tokenizer.train(TokenizerConfig(vocab_file=str(published(kind) / "tokenizer.json")), list)


@functools.cache
def their_library(kind: str) -> tokenizers.Tokenizer:
    """What they publish, told that a text has no special tokens in it."""
    library = tokenizers.Tokenizer.from_file(str(published(kind) / "tokenizer.json"))
    library.encode_special_tokens = True
    return library


def assert_same_ids(kind: str, texts: list[str]) -> None:
    """But where a SentencePiece model finds a special token in the text, which is unknown here."""
    words = given_(kind)
    never, unk = words.special_tokens.never_in_text, words.special_tokens.unk
    theirs = [e.ids for e in their_library(kind).encode_batch(texts, add_special_tokens=False)]
    if kind != "xlm_roberta":
        assert not any(never & set(ids) for ids in theirs)
    assert words.encode_batch(texts) == [[unk if i in never else i for i in ids] for ids in theirs]


# Ids


@pytest.mark.long
@each_kind
def test_real_and_awkward_lines_have_the_ids_of_the_library(kind: str):
    assert given_(kind)._encoder._split is not None, "all of these are encoded a word at a time"
    assert_same_ids(kind, [*real_lines(5000), *AWKWARD, *MORE_AWKWARD])


@each_kind
def test_reviews_news_and_speeches_have_the_ids_of_the_library(kind: str):
    files = sorted((SHARED_DATA / "corpus").glob("*.txt.gz"))
    if not files:
        pytest.skip("no corpus here")
    for file in files:
        found = (line for document in documents(f"files:{file}") for line in document.lines)
        assert_same_ids(kind, list(islice(found, 2000)))


PARTS = [
    *"ab'st1.,\t\n\r\x1c\x85",
    *[" "] * 9,
    *"é\u0301Σ東🙂\u00a0\u3000\u180e\u200b",
    "<s>",
    "[SEP]",
    "don't",
]


@each_kind
@given(text=st.lists(st.sampled_from(PARTS)).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_ids_of_the_library(kind: str, text: str):
    assert_same_ids(kind, [text])


@each_kind
def test_text_never_becomes_a_special_token(kind: str):
    words = given_(kind)
    texts = [f"a {words.pieces[i]} b{words.pieces[i]}" for i in words.special_tokens.ids]
    assert not words.special_tokens.never_in_text & {i for ids in words.encode_batch(texts) for i in ids}


def library_of(model: Any, **parts: Any) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(library, name, part)
    return library


@pytest.mark.parametrize(
    "spoil",
    [
        lambda library: setattr(library, "normalizer", normalizers.Prepend("x")),
        lambda library: setattr(library, "normalizer", normalizers.Replace("a b", "ab")),
        lambda library: setattr(library, "pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False)),
        lambda library: setattr(library, "pre_tokenizer", None),
        lambda library: library.add_tokens([AddedToken("eats ", rstrip=True)]),
        lambda library: library.add_tokens([AddedToken("new york", normalized=False)]),
    ],
)
def test_where_a_word_may_depend_on_others_lines_stay_whole(spoil: Callable[[tokenizers.Tokenizer], Any]):
    library = tokenizers.Tokenizer.from_file(str(published("roberta") / "tokenizer.json"))
    assert split_of(json.loads(library.to_str()))
    spoil(library)
    assert split_of(json.loads(library.to_str())) is None


# Special tokens, and files


@each_kind
def test_the_folder_stays_as_it_is(kind: str, tmp_path: Path):
    """What belongs to the tokenizer; one without a tokenizer_config.json gets one, for AutoTokenizer."""
    given_(kind).save(tmp_path / "saved")
    theirs = {file.name: file.read_bytes() for file in published(kind).iterdir()}
    ours = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    theirs.pop("config.json", None)
    if "tokenizer_config.json" not in theirs:
        assert json.loads(ours.pop("tokenizer_config.json"))["mask_token"] == "[MASK]"
    assert ours == theirs
    loaded = tokenizer.load(tmp_path / "saved")
    assert loaded.sha256 == given_(kind).sha256
    assert loaded.special_tokens == given_(kind).special_tokens


def test_roles_are_what_the_files_beside_it_say():
    assert given_("roberta").special_tokens == SpecialTokens(pad=1, unk=3, cls=0, sep=2, mask=1500)
    assert given_("wordpiece").special_tokens == SpecialTokens(pad=1, unk=2, cls=3, sep=4, mask=0)
    assert given_("xlm_roberta").special_tokens == SpecialTokens(pad=1, unk=3, cls=0, sep=2, mask=1499)
    found = given_("modernbert").special_tokens
    assert (found.unk, found.cls, found.sep, found.pad, found.mask) == (50280, 50281, 50282, 50283, 50284)
    assert found.others == (0, 1), "<|endoftext|> and <|padding|>"


def test_ids_that_no_piece_has_are_never_a_random_token(tmp_path: Path):
    pieces = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "the": 7, "of": 9}
    library = library_of(
        models.WordPiece(pieces, unk_token="[UNK]"), pre_tokenizer=pre_tokenizers.Whitespace()
    )
    words = tokenizer.load(write(tmp_path / "gaps", library))
    assert words.vocab_size == 10
    assert words.special_tokens.ids == [0, 1, 2, 3, 4, 5, 6, 8]


def bare(*special: str) -> tokenizers.Tokenizer:
    ids = {piece: i for i, piece in enumerate([*special, "a"])}
    return library_of(models.BPE(ids, []), pre_tokenizer=pre_tokenizers.ByteLevel())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda file: bare("<s>", "</s>", "<pad>").save(file),
            r"has no mask token \(\[MASK\] or <mask>\); add it .*mask_token",
        ),
        (lambda file: bare("<pad>", "</s>", "<mask>").save(file), r"no cls token \(\[CLS\] or <s>\)"),
        (lambda file: bare("<pad>", "<mask>").save(file), r"no cls token .* and no sep token"),
        (lambda file: Path(file).write_text('{"version": "1.0"'), "is damaged, or no tokenizer.json"),
        (lambda file: Path(file).write_text('{"the": 0, "of": 1}'), "is damaged, or no tokenizer.json"),
        (lambda file: Path(file).unlink(), "cannot be read: .*No such file"),
        (
            lambda file: Path(file).with_name("tokenizer_config.json").write_text("{"),
            "tokenizer_config.json beside .* is not JSON",
        ),
        (
            lambda file: Path(file).with_name("tokenizer_config.json").write_text('{"mask_token": "<m>"}'),
            "has no token '<m>', which is its mask_token by the tokenizer_config.json",
        ),
        (
            lambda file: Path(file).with_name("tokenizer_config.json").write_text('{"mask_token": "<s>"}'),
            "a mask token that is also its pad, unk, cls or sep token",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_with_file_and_remedy(
    tmp_path: Path, spoil: Callable[[str], Any], message: str
):
    file = write(tmp_path / "given", bare("<s>", "</s>", "<pad>", "<mask>")) / "tokenizer.json"
    config = TokenizerConfig(vocab_file=str(file))
    assert tokenizer.train(config, list).special_tokens == SpecialTokens(2, None, 0, 1, 3)
    spoil(str(file))
    with pytest.raises(ValueError, match=message) as error:
        tokenizer.train(config, list)
    assert str(error.value).count("\n") == 0
    assert f"data.tokenizer.vocab_file {file}" in str(error.value)


def test_a_vocabulary_is_the_same_whoever_wrote_its_lines(tmp_path: Path):
    found = []
    for start, end in ("", "\n"), ("", "\r\n"), ("", "\r"), ("\ufeff", "\r\n"), ("", "\r\r\n"):
        text = start + end.join(["[MASK]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"])
        (tmp_path / "vocab.txt").write_bytes(text.encode())
        found.append(
            tokenizer.train(TokenizerConfig(kind="wordpiece", vocab_file=f"{tmp_path}/vocab.txt"), list)
        )
    assert all(one.files == found[0].files for one in found)
    assert found[0].special_tokens == SpecialTokens(pad=1, unk=2, cls=3, sep=4, mask=0)


# Words


def words_of(words: Tokenizer, text: str) -> list[str]:
    """The words that are masked together, as text."""
    continues, ends = words.word_marks
    found: list[str] = []
    ended = True
    for i in words.encode_batch([text])[0]:
        assert words.spelling is not None
        piece = words.spelling.text(words.pieces[i])
        if continues[i] and not ended:
            found[-1] += piece
        else:
            found.append(piece)
        ended = bool(ends[i])
    return [word.strip() for word in found]


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "xlm_roberta"])
def test_what_is_between_spaces_is_a_word(kind: str):
    text = "The statements, it's said: are (almost) never executed twice!"
    assert words_of(given_(kind), text) == text.split()


def test_wordpiece_parts_punctuation():
    assert words_of(given_("wordpiece"), "it's done") == ["it", "'", "s", "done"]


def test_a_new_line_or_a_tab_begins_a_word():
    assert words_of(given_("roberta"), "one\ntwo\tthree") == ["one", "two", "three"]


def test_a_chinese_character_begins_a_word_also_in_bytes():
    """But what goes on inside of a character does not, nor do dashes and emoji, of whatever bytes."""
    words = given_("roberta")
    assert words.spelling is not None
    for text, begins in {
        "東": "東",
        "京": "京",
        "—": "",
        "🙂": "",
        "é": "",
        "\u00a0": "\u00a0",
        "ン": "",
    }.items():
        for size in range(1, len(text.encode()) + 1):
            piece = "".join(character_of(byte) for byte in text.encode()[:size])
            is_whole = size == len(text.encode())
            expected = not begins or (text.isspace() and not is_whole)
            assert words.spelling.continues_word(piece) == expected, (text, size)
        rest = "".join(character_of(byte) for byte in text.encode()[1:])
        assert words.spelling.continues_word(rest)


def character_of(byte: int) -> str:
    return next(character for character, value in BYTES.items() if value == byte)


def test_an_end_mark_ends_a_word(tmp_path: Path):
    """BPE as XLM and GPT-1 have it."""
    pieces = ["<s>", "</s>", "<pad>", "<mask>", "t", "h", "e", "e</w>", "th", "the</w>", "the"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)},
        [("t", "h"), ("th", "e</w>"), ("th", "e")],
        end_of_word_suffix="</w>",
    )
    words = tokenizer.load(
        write(tmp_path / "x", library_of(model, pre_tokenizer=pre_tokenizers.Whitespace()))
    )
    assert words_of(words, "the thethe the") == ["the", "thethe", "the"]
    (ids,) = words.encode_batch(["the thethe the"])
    row = [0, *ids, 1]
    found = masking._joined(tf.constant([row]), words.word_marks).numpy()[0]
    assert found.tolist() == [False, True, False, True, False, False]


def test_where_words_are_not_known_only_tokens_are_masked(config: Config, tmp_path: Path):
    library = tokenizers.Tokenizer.from_file(str(published("xlm_roberta") / "tokenizer.json"))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Whitespace(), None
    file = write(tmp_path / "given", library) / "tokenizer.json"
    data = change(config.data, dir=str(tmp_path / "data"), tokenizer=TokenizerConfig(vocab_file=str(file)))
    prepare(data)
    next(Loader(data, split="train", batch_size=2))
    data = change(data, masking=MaskingConfig(strategy="whole_word", max_predictions=12))
    with pytest.raises(
        ValueError, match=r"does not tell where words begin: .* use data\.masking\.strategy token"
    ):
        Loader(data, split="train", batch_size=2)


# Prepared data


def data_of(config: Config, kind: str, folder: Path, **fields: Any) -> DataConfig:
    words = TokenizerConfig(vocab_file=str(published(kind) / "tokenizer.json"))
    return change(config.data, dir=str(folder / "data"), tokenizer=words, **fields)


@pytest.mark.long
@each_kind
def test_rows_are_between_its_own_cls_and_sep_and_filled_with_its_padding(
    config: Config, kind: str, tmp_path: Path
):
    data = data_of(config, kind, tmp_path, masking=MaskingConfig(strategy="whole_word", max_predictions=12))
    manifest = prepare(data)
    special = given_(kind).special_tokens
    assert manifest.special_tokens == special == Manifest.load(Path(data.dir)).special_tokens
    batches = []
    for split in ("train", "validation"):
        with Loader(data, split=split, batch_size=16) as loader:
            batches += islice(loader, 20)
    ids = np.concatenate([batch["token_ids"] for batch in batches])
    lengths = np.concatenate([batch["segment_lengths"] for batch in batches]).sum(axis=2)
    chosen = np.concatenate([batch["mlm_targets"][batch["mlm_positions"] > 0] for batch in batches])
    inside = np.arange(ids.shape[1]) < lengths.sum(axis=1, keepdims=True)
    assert (~inside).any()
    assert (ids[~inside] == special.pad).all()
    assert not (ids[inside] == special.pad).any()
    for row, sizes in zip(ids, lengths, strict=True):
        ends = np.cumsum(sizes)
        for start, end in zip(ends - sizes, ends, strict=True):
            assert start == end or (row[start], row[end - 1]) == (special.cls, special.sep)
    assert (ids == special.mask).any()
    assert not np.isin(chosen, special.ids).any()


@pytest.mark.long
@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_lines_of_a_document_are_a_text(config: Config, kind: str, tmp_path: Path):
    """Also in byte-level BPE, there is a space between them."""
    (tmp_path / "a.txt").write_text("First line.\nsecond one\n\nAnother document.\nof two lines")
    data = data_of(
        config, kind, tmp_path, source=f"files:{tmp_path}/a.txt",
        input_format="documents", max_sequences_per_row=1, validation_fraction=0.0,
    )  # fmt: skip
    prepare(data)
    words = given_(kind)
    nothing = MaskingConfig(mask_fraction=0, random_fraction=0, max_predictions=12)
    with Loader(change(data, masking=nothing), split="train", batch_size=2) as loader:
        rows = next(loader)["token_ids"].tolist()
    texts = {words.huggingface.decode(row).strip() for row in rows}
    expected = {"First line. second one", "Another document. of two lines"}
    if kind == "wordpiece":
        expected = {"first line. second one", "another document. of two lines"}
    assert texts == expected
