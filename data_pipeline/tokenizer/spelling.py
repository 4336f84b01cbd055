"""How the pieces of a vocabulary tell of spaces, and so where words begin.

WordPiece         un ##able      a mark on what continues a word
SentencePiece     ▁the ▁end .    a mark for the space before a word
byte-level BPE    Ġthe Ġend .    the same, and a character for each byte
BPE of XLM        the end</w>    a mark on what ends a word
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Characters that BERT takes for words, first and last of each range (tokenization.py: _is_chinese_char)."""


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: a byte that Latin-1 prints is itself, the others follow from Ā on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_of_character()


@dataclass(frozen=True)
class Spelling:
    """How one vocabulary does it: one of the first three is not empty."""

    continuation: str = ""
    """Begins a piece that continues a word."""
    space: str = ""
    """Stands for a space."""
    end: str = ""
    """Ends a piece that ends a word."""
    is_bytes: bool = False

    def continues_word(self, piece: str) -> bool:
        """Whether a piece continues the word of the piece before it, if that does not end its word.

        A piece does, punctuation too, if it has no mark of a space. But if it starts with a Chinese character
        it does not: a text without spaces is more than one word.
        """
        if self.continuation:
            return piece.startswith(self.continuation)
        if self.end:
            return True
        if piece.startswith(self.space):
            return False
        if not self._is_of_bytes(piece):
            return not (piece[:1].isspace() or _is_cjk(piece[:1]))
        begun = bytes(BYTES[character] for character in piece[:4])
        # A piece can begin or end inside a character. Of those that begin so, the lowest one is looked at: a
        # Chinese one if the others are.
        lowest = (begun + b"\x80\x80\x80").decode(errors="replace")[0]
        return not (begun.decode(errors="replace")[:1].isspace() or _is_cjk(lowest))

    def ends_word(self, piece: str) -> bool:
        return bool(self.end) and piece.endswith(self.end)

    def text(self, piece: str) -> str:
        """A piece as text, with a space where the vocabulary has one."""
        if self.continuation:
            return piece[len(self.continuation) :] if self.continues_word(piece) else f" {piece}"
        if self.end:
            return f"{piece.removesuffix(self.end)} " if self.ends_word(piece) else piece
        if self._is_of_bytes(piece):
            return bytes(BYTES[character] for character in piece).decode(errors="replace")
        return piece.replace(self.space, " ")

    def _is_of_bytes(self, piece: str) -> bool:
        """Not of an added token, which is written as it is."""
        return self.is_bytes and bool(piece) and all(character in BYTES for character in piece)


def _is_cjk(character: str) -> bool:
    return bool(character) and any(first <= ord(character) <= last for first, last in CJK)


def spelling_of(description: Mapping[str, Any]) -> Spelling | None:
    """What a tokenizer.json tells of it; None if it does not say where words begin."""
    model = description["model"]
    if model["type"] == "WordPiece":
        mark = model["continuing_subword_prefix"]
        return Spelling(continuation=mark) if mark else None
    if model["type"] == "BPE" and model.get("end_of_word_suffix"):
        return Spelling(end=model["end_of_word_suffix"])
    if model["type"] == "BPE" and model.get("continuing_subword_prefix"):
        return Spelling(continuation=model["continuing_subword_prefix"])
    for part in (*parts_of(description["pre_tokenizer"]), *parts_of(description["decoder"])):
        match part:
            case {"type": "ByteLevel"}:
                return Spelling(space="Ġ", is_bytes=True)
            case {"type": "Metaspace", "replacement": str(mark)}:
                return Spelling(space=mark)
            case {"type": "Replace", "pattern": {"String": str(mark)}, "content": " "}:
                return Spelling(space=mark)
    return None


def parts_of(component: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The parts of a normalizer, pre_tokenizer or decoder, which may be a sequence of others."""
    if component is None:
        return
    if component["type"] != "Sequence":
        yield component
        return
    for name in ("normalizers", "pretokenizers", "decoders"):
        for part in component.get(name, ()):
            yield from parts_of(part)
