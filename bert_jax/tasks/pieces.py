"""The texts of a task to pieces, and where these are in a text. Special pieces never come from a text."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from data_pipeline.tokenizer import Tokenizer

ENCODED_AT_ONCE = 10_000
"""Texts. An encoding takes some hundred bytes a token."""
BEGINNING = re.compile(r"\A[\s\x00-\x1f\x7f-\x9f]+")
"""Spaces and control characters. Where a SentencePiece model takes off the first character of a text, the
offsets of tokenizers (0.23) are one too low; not where it is a space."""


class Frame(NamedTuple):
    """What a tokenizer puts around a text, or around two: [CLS] A [SEP], <s> A </s> </s> B </s>."""

    before: list[int]
    between: list[int]
    """Empty where there is one text."""
    after: list[int]
    second_begins: int | None
    """Where tokens are of type 1: from this one of `between` on, to the end. None: nowhere."""

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def row(self, first: list[int], second: list[int] | None) -> tuple[list[int], tuple[int, int]]:
        """The ids of a row, and how many of them are of type 0 and of type 1."""
        ids = [*self.before, *first, *self.between, *(second or ()), *self.after]
        if self.second_begins is None:
            return ids, (len(ids), 0)
        size = len(self.before) + len(first) + self.second_begins
        return ids, (size, len(ids) - size)


class Pieces:
    """A tokenizer that neither cuts nor pads, and takes "[SEP]" in a text for plain text.

    A SentencePiece model with capitals has the special pieces among its own, and finds them in a text in
    spite of `encode_special_tokens`: those become [UNK].
    """

    def __init__(self, tokenizer: Tokenizer):
        self._library = tokenizers.Tokenizer.from_str(
            tokenizer.huggingface.to_str()
        )  # that one stays as it is
        self._library.encode_special_tokens = True
        self._tokenizer = tokenizer
        special = tokenizer.special_tokens
        self.pad = special.pad
        self._never = special.never_in_text
        # Bytes make any text; without an [UNK], a mask holds the place of a word of which nothing is left.
        self._unknown = special.mask if special.unk is None else special.unk

    @functools.cached_property
    def alone(self) -> Frame:
        """What goes around a text."""
        return self._frame("a", None)

    @functools.cached_property
    def paired(self) -> Frame:
        """What goes around two texts."""
        return self._frame("a", "a")

    def _frame(self, first: str, second: str | None) -> Frame:
        found = self._tokenizer.huggingface.encode(first, second)
        of, last = found.sequence_ids, int(second is not None)  # 0, 1; None for special tokens
        assert {*of} - {None} == {*range(last + 1)}, "no vocabulary lacks the letter a and what is unknown"
        start, end = of.index(last), len(of) - of[::-1].index(0)
        between = slice(end, start) if last else slice(0)
        inputs = self._tokenizer.settings.get("model_input_names", ["token_type_ids"])
        second_begins = None
        if last and found.type_ids[start] and "token_type_ids" in inputs:
            second_begins = found.type_ids[between].count(0)
        behind = len(of) - of[::-1].index(last)
        return Frame(found.ids[: of.index(0)], found.ids[between], found.ids[behind:], second_begins)

    def of_texts(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of each text."""
        return (ids for ids, _ in self._encode(texts))

    def of_words(self, sentences: Sequence[Sequence[str]]) -> Iterator[list[list[int]]]:
        """Ids of each word of each sentence, one at least.

        A tokenizer drops a word of nothing but control characters, joiners or accents; [UNK] holds its place.
        """
        find = self._of_words_in_text if self._tokenizer.line_start else self._of_words_alone
        for by_word in find(sentences):
            yield [word or [self._unknown] for word in by_word]

    def _of_words_alone(self, sentences: Sequence[Sequence[str]]) -> Iterator[list[list[int]]]:
        """As the library has it: each word is a text of its own."""
        for words, (ids, encoding) in zip(sentences, self._encode(sentences, words=True), strict=True):
            by_word: list[list[int]] = [[] for _ in words]
            for i, word in zip(ids, encoding.word_ids, strict=True):
                assert word is not None
                by_word[word].append(i)
            yield by_word

    def _of_words_in_text(self, sentences: Sequence[Sequence[str]]) -> Iterator[list[list[int]]]:
        """By where the pieces of the whole sentence are in it.

        Byte-level BPE, say, writes a word alone otherwise than one behind a space, as which it knows it. The
        space is a part of the word behind it; a piece is of the word in which it ends.
        """
        texts, owners = [], []
        for words in sentences:
            written = [(i, word) for i, word in enumerate(words) if word.strip()]
            texts.append(" ".join(word for _, word in written))
            owners.append([i for n, (i, word) in enumerate(written) for _ in range(len(word) + (n > 0))])
        for words, owner, (ids, encoding) in zip(sentences, owners, self._encode(texts), strict=True):
            by_word: list[list[int]] = [[] for _ in words]
            for i, (start, end) in zip(ids, encoding.offsets, strict=True):
                by_word[owner[min(max(start, end - 1), len(owner) - 1)]].append(i)
            yield by_word

    def with_spans(self, texts: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Ids of each text, and [L, 2] int32 where each piece is in it; -1, -1 if that is only spaces."""
        if not self._tokenizer.is_bytes:
            texts = [BEGINNING.sub(lambda found: " " * len(found[0]), text) for text in texts]
        for text, (ids, encoding) in zip(texts, self._encode(texts), strict=True):
            spans_Lx2 = np.full((len(ids), 2), -1, np.int32)
            for i, offsets in enumerate(encoding.offsets):
                start, end = _span(text, *offsets)
                if start < end:
                    spans_Lx2[i] = start, end
            yield ids, spans_Lx2

    def _encode(
        self, inputs: Sequence[str] | Sequence[Sequence[str]], *, words: bool = False
    ) -> Iterator[tuple[list[int], tokenizers.Encoding]]:
        for start in range(0, len(inputs), ENCODED_AT_ONCE):
            part = inputs[start : start + ENCODED_AT_ONCE]
            for encoding in self._library.encode_batch(part, is_pretokenized=words, add_special_tokens=False):
                yield [self._unknown if i in self._never else i for i in encoding.ids], encoding


def _span(text: str, start: int, end: int) -> tuple[int, int]:
    """The piece without the space before a word, which SentencePiece counts to its first piece.

    With the accents on the last character (in Unicode, marks), which a normalizer may have taken off.
    """
    while start < end and text[start].isspace():
        start += 1
    while start < end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end
