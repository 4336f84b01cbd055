"""The texts of a task to pieces, and where these are in a text. Special pieces never come from a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers

from data_pipeline.errors import require

ENCODED_AT_ONCE = 10_000
"""Texts. An encoding takes some hundred bytes a token."""
BEGINNING = re.compile(r"\A[\s\x00-\x1f\x7f-\x9f]+")
"""Spaces and control characters. Where a SentencePiece model takes off the first character of a text, the
offsets of tokenizers (0.23) are one too low; not where it is a space."""


class Pieces:
    """A tokenizer that neither cuts nor pads, and takes "[SEP]" in a text for plain text.

    A SentencePiece model with capitals has the special pieces among its own, and finds them in a text in
    spite of `encode_special_tokens`: those become [UNK].

    Raises:
      UserError: the tokenizer has no [CLS], [SEP] or [UNK].
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        from data_pipeline.tokenizer import CLS, SEP, SPECIAL_PIECES, UNK  # needs SentencePiece

        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())  # the caller's stays as it is
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        found = {piece: tokenizer.token_to_id(piece) for piece in SPECIAL_PIECES}
        ids = {piece: i for piece, i in found.items() if i is not None}
        missing = [piece for piece in (UNK, CLS, SEP) if piece not in ids]
        require(not missing, f"the tokenizer has no {', '.join(missing)}; BERT's rows need them")
        self.unk, self.cls, self.sep = ids[UNK], ids[CLS], ids[SEP]
        self._special = set(ids.values())

    def of_texts(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of each text."""
        return (ids for ids, _ in self._encode(texts))

    def of_words(self, sentences: Sequence[Sequence[str]]) -> Iterator[list[list[int]]]:
        """Ids of each word of each sentence, one at least.

        A tokenizer drops a word of nothing but control characters, joiners or accents; [UNK] holds its place.
        """
        for words, (ids, encoding) in zip(sentences, self._encode(sentences, words=True), strict=True):
            by_word: list[list[int]] = [[] for _ in words]
            for i, word in zip(ids, encoding.word_ids, strict=True):
                assert word is not None
                by_word[word].append(i)
            yield [word or [self.unk] for word in by_word]

    def with_spans(self, texts: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Ids of each text, and [L, 2] int32 where each piece is in it; -1, -1 if that is only spaces."""
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
            for encoding in self._tokenizer.encode_batch(
                part, is_pretokenized=words, add_special_tokens=False
            ):
                yield [self.unk if i in self._special else i for i in encoding.ids], encoding


def _span(text: str, start: int, end: int) -> tuple[int, int]:
    """The piece without the space before a word, which SentencePiece counts to its first piece.

    With the accents on the last character (in Unicode, marks), which a normalizer may have taken off.
    """
    while start < end and text[start].isspace():
        start += 1
    while start < end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end
