"""A new vocabulary for old weights: the row of each new piece from rows of old ones.

Pieces that both vocabularies have keep their rows. Any other one begins as the mean of the rows of those that
the old tokenizer makes of its text (Fast Vocabulary Transfer, Gee et al. 2022). One that has no text, or none
that the old one can read, begins as the mean of all (Hewitt 2021, "Initializing New Word Embeddings for
Pretrained Language Models").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.special_tokens import USUAL
from data_pipeline.tokenizer import Tokenizer, is_unused

BEFORE = "a"
"""A letter that stands for the beginning of a word, where a piece is the rest of one."""


class Origins(NamedTuple):
    """For each piece of a new vocabulary, in order, the old pieces whose mean it begins as."""

    parts: list[list[int]]
    """Empty: the mean of all of `ordinary`."""
    ordinary: np.ndarray
    """The ids of the old pieces that are text."""
    copied: int
    """How many of them are the one old piece that has the same text, or the same role."""

    @property
    def are_the_same(self) -> bool:
        """Whether every piece is where it was."""
        return all(parts == [id] for id, parts in enumerate(self.parts))

    def rows(self, old_VxD: np.ndarray, *, size: int) -> np.ndarray:
        """[old vocabulary, ...] -> [size, ...], for embeddings and biases alike; 0 behind the last piece."""
        counts = np.array(list(map(len, self.parts)))
        known = np.flatnonzero(counts)
        starts = np.cumsum(counts[known]) - counts[known]
        flat = np.array([id for parts in self.parts for id in parts], np.int64)
        ends = [1] * (old_VxD.ndim - 1)
        new_VxD = np.zeros((size, *old_VxD.shape[1:]), old_VxD.dtype)
        new_VxD[: len(counts)] = old_VxD[self.ordinary].mean(axis=0)
        sums = np.add.reduceat(old_VxD[flat], starts, axis=0)
        new_VxD[known] = sums / counts[known].reshape(-1, *ends).astype(old_VxD.dtype)
        return new_VxD

    def __str__(self) -> str:
        new = sum(not parts for parts in self.parts)
        made = len(self.parts) - self.copied - new
        return f"{self.copied:,} pieces copied, {made:,} made of others, {new:,} of the mean of all"


def origins(old: Tokenizer, new: Tokenizer) -> Origins:
    """Where the rows of the pieces of `new` come from."""
    old_special = {*old.special_tokens.ids}
    parts: list[list[int]] = [[] for _ in new.pieces]
    for role in USUAL:
        ours, theirs = getattr(new.special_tokens, role), getattr(old.special_tokens, role)
        if None not in (ours, theirs):
            parts[ours] = [theirs]
    for id in new.special_tokens.others:
        theirs = old.ids.get(new.pieces[id])
        parts[id] = [theirs] if theirs in old_special else []
    copied = sum(map(bool, parts))
    to_cut = []
    for id in sorted({*range(new.vocab_size)} - {*new.special_tokens.ids}):
        same = old.ids.get(new.pieces[id]) if new.spelling == old.spelling else None
        if same is not None and same not in old_special:
            parts[id] = [same]
            copied += 1
        elif not is_unused(new.pieces[id]):
            to_cut.append(id)
    for id, found in zip(to_cut, _cut(old, new, to_cut), strict=True):
        parts[id] = [part for part in found if part not in old_special]
        copied += [*map(old.text, parts[id])] == [new.text(id)]
    ordinary = [id for id in range(old.vocab_size) if id not in old_special and not is_unused(old.pieces[id])]
    return Origins(parts, np.array(ordinary), copied)


def first_moved(old: Tokenizer, new: Tokenizer) -> int | None:
    """The first piece of `old` that is not at its place in `new`; None if all are. Unused ones may go."""
    pieces = [*new.pieces, *[""] * len(old.pieces)]
    moved = (
        id
        for id, piece in enumerate(old.pieces)
        if piece != pieces[id] and not (piece == "" or is_unused(piece))
    )
    return next(moved, None)


def _cut(old: Tokenizer, new: Tokenizer, ids: Sequence[int]) -> list[list[int]]:
    """What the old tokenizer makes of the texts of these new pieces, where a word begins or goes on."""
    texts = [new.text(id) for id in ids]
    whole = [text if text[:1].isspace() else "" for text in texts]
    found = old.encode_batch(whole)
    for number, (id, text) in enumerate(zip(ids, texts, strict=True)):
        if "\ufffd" in text:  # a part of a character
            both_bytes = old.is_bytes and new.is_bytes
            found[number] = _of_model(old, new.pieces[id]) if both_bytes else []
        elif text and not whole[number]:
            found[number] = _continued(old, text)
    return found


def _continued(words: Tokenizer, text: str) -> list[int]:
    """The ids of a text that continues a word; of punctuation, which does not, those that it has anyway."""
    library = words.huggingface
    normal = BEFORE + text if library.normalizer is None else library.normalizer.normalize_str(BEFORE + text)
    split = [normal]
    if library.pre_tokenizer is not None:
        split = [word for word, _ in library.pre_tokenizer.pre_tokenize_str(normal)]
    _, before, rest = split[0].partition(BEFORE)
    if not before:  # it has become another letter, with the accent that the text begins with
        return []
    mark = words.spelling.continuation if words.spelling else ""
    found = _longest_first(words, rest, mark) if mark else _of_model(words, rest)
    return [*found, *(id for word in split[1:] for id in _of_model(words, word))]


def _of_model(words: Tokenizer, word: str) -> list[int]:
    """The ids of what normalizer and pre-tokenizer have made."""
    return [token.id for token in words.huggingface.model.tokenize(word)] if word else []


def _longest_first(words: Tokenizer, rest: str, mark: str) -> list[int]:
    """WordPiece from the middle of a word: each time the longest piece that fits. None if one is missing."""
    found = []
    while rest:
        fitting = (size for size in range(len(rest), 0, -1) if mark + rest[:size] in words.ids)
        size = next(fitting, 0)
        if not size:
            return []
        found.append(words.ids[mark + rest[:size]])
        rest = rest[size:]
    return found
