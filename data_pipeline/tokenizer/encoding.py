"""Lines to ids in Hugging Face's library, fast: a word is encoded once, if it alone decides its ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import tokenizers

from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.tokenizer.spelling import parts_of

KNOWN_WORDS = 200_000
"""Words whose ids are remembered, about."""

Split = Callable[[str], list[str] | None]
"""Cuts a line in words that have the same ids alone as in it; None if it cannot tell where."""


class Encoder:
    """Ids of lines, without special tokens: those that the library gives, and none of `special` but unk.

    A SentencePiece model has its special tokens among the pieces, and the library finds them in a text in
    spite of `encode_special_tokens`: those become unk, or go where there is none.
    """

    def __init__(self, library: tokenizers.Tokenizer, special: SpecialTokens, *, split: Split | None):
        assert library.encode_special_tokens, "a '[SEP]' in a text is text"
        self._library, self._special, self._split = library, special, split
        self._never = special.never_in_text
        self._known: dict[str, list[int]] = {}

    def __call__(self, lines: list[str]) -> list[list[int]]:
        if self._split is None:
            return self._encode(lines)
        split = [self._split(line) for line in lines]
        if len(self._known) > KNOWN_WORDS:
            self._known.clear()
        known = self._known
        new = list(set(chain.from_iterable(filter(None, split))).difference(known))
        known.update(zip(new, self._encode(new), strict=True))
        whole = iter(self._encode([line for line, words in zip(lines, split, strict=True) if words is None]))
        return [
            next(whole) if words is None else [i for word in words for i in known[word]] for words in split
        ]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [without(encoding.ids, self._never, unk=self._special.unk) for encoding in encodings]


def without(ids: list[int], never: frozenset[int], *, unk: int | None) -> list[int]:
    """`ids` with `unk` in place of those of `never`; without them, if there is none."""
    if never.isdisjoint(ids):
        return ids
    replaced = (unk if i in never else i for i in ids)
    return [i for i in replaced if i is not None]


LOCAL = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
"""Normalizers that neither see across a space nor add or remove one at the edge of a printable word."""
AT_SPACES = LOCAL | {"Nmt", "StripAccents", "BertNormalizer", "Precompiled", "Strip"}
"""Those that change a word on its own, where spaces are dropped afterwards."""


def split_of(description: Mapping[str, Any]) -> Split | None:
    """How to cut lines for a tokenizer.json; None if a word may depend on what is around it.

    An added token may be of several words, or take the space behind it away.
    """
    added = [token for token in description["added_tokens"] if not token["special"]]
    if any(token["rstrip"] or _has_space_behind_text(token["content"]) for token in added):
        return None
    normalizers = list(parts_of(description["normalizer"]))
    match list(parts_of(description["pre_tokenizer"])):
        case [{"type": "BertPreTokenizer" | "WhitespaceSplit" | "Whitespace"}, *others]:
            is_local = all(map(_is_local_at_spaces, normalizers)) and not any(
                " " in token["content"] for token in added
            )
            is_local &= not any(part.get("prepend_scheme") == "first" for part in others)
            return _at_spaces if is_local else None
        case [{"type": "ByteLevel", "use_regex": True}]:
            # Added tokens of several spaces do no harm: a line that could have them is not cut.
            return _before_spaces if all(part["type"] in LOCAL for part in normalizers) else None
    return None


def _has_space_behind_text(content: str) -> bool:
    return " " in content.lstrip(" ")


def _is_local_at_spaces(normalizer: Mapping[str, Any]) -> bool:
    match normalizer:
        case {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}:
            return True
    return normalizer["type"] in AT_SPACES


def _at_spaces(line: str) -> list[str] | None:
    return line.split(" ")


def _before_spaces(line: str) -> list[str] | None:
    """GPT-2's pattern begins a word at each single space that is behind something printed."""
    if not line.isprintable() or "  " in line:
        return None
    return line.replace(" ", "\n ").split("\n")
