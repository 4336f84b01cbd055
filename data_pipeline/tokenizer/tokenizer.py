"""A tokenizer, which is a folder: Hugging Face's tokenizer.json, and what lies beside it.

Whoever made it, the folder is kept as it is, from the prepared data to the exported model.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from data_pipeline.config import parse_object, read_object
from data_pipeline.errors import UserError, require
from data_pipeline.special_tokens import special_tokens_of
from data_pipeline.tokenizer.conversion import NATIVE, of_vocabulary, template
from data_pipeline.tokenizer.encoding import Encoder, split_of, without
from data_pipeline.tokenizer.spelling import spelling_of

JSON, SETTINGS, OLDER_SETTINGS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
FILES = (
    JSON,
    SETTINGS,
    OLDER_SETTINGS,
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""What belongs to a tokenizer in a folder that may hold a model too."""


MAX_PIECES = 1 << 24
"""Of a vocabulary: there is a row of weights for each id, used or not."""


PROBE = "Text, 3.14, été, 東京 😀 \x00 ẑ"
"""What a tokenizer has to bear: some of them fail only where they meet a word that they do not know."""


class Tokenizer:
    """Text to ids. Special tokens come only from this program, never from the text.

    Args:
      files: contents by name, of FILES; tokenizer.json must be there.
      where: the path of tokenizer.json, for messages.

    Raises:
      UserError: the files are damaged, or have no token for a role that a row needs.
    """

    def __init__(self, files: Mapping[str, bytes], *, where: str = JSON):
        self.files = dict(files)
        self.settings = _stated(files, where=where)
        self._where = where
        library = self._in_library()
        library.encode_special_tokens = True  # a "[SEP]" in the corpus is plain text
        if getattr(library.model, "dropout", None):
            library.model.dropout = None  # the same text has the same ids
        self.ids: dict[str, int] = library.get_vocab(with_added_tokens=True)
        highest = max(self.ids.values(), default=-1)
        require(highest < MAX_PIECES, f"{where} has a token of id {highest}; at most {MAX_PIECES:,} can be")
        self._description = json.loads(library.to_str())  # which counts up to the highest id
        self.pieces = [""] * (1 + highest)
        for piece, id in self.ids.items():
            self.pieces[id] = piece
        added = self._description["added_tokens"]
        special = {token["id"] for token in added if token["special"]}
        unused = {id for id, piece in enumerate(self.pieces) if not piece}
        self.special_tokens = special_tokens_of(self.ids, self.settings, others=special | unused, where=where)
        self.spelling = spelling_of(self._description)
        self._encoder = Encoder(library, self.special_tokens, split=split_of(self._description))
        self._sentencepiece: Any = None
        if self._kind in ("unigram", "bpe"):
            import sentencepiece  # not there where a model is only trained

            self._sentencepiece = sentencepiece.SentencePieceProcessor(model_proto=self._native)

    @property
    def _kind(self) -> str | None:
        """Of a tokenizer that was made here from a native file, which is beside tokenizer.json; else None."""
        kind = self.settings.get("kind")
        is_native = isinstance(kind, str) and NATIVE.get(kind) in self.files and "lowercase" in self.settings
        return kind if is_native else None

    @property
    def _native(self) -> bytes:
        return self.files[NATIVE[str(self._kind)]]

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return len(self.pieces)

    @property
    def is_ours(self) -> bool:
        """Whether its folder was written here, and not taken as it was."""
        return "kind" in self.settings

    @property
    def mask_token(self) -> str:
        return self.pieces[self.special_tokens.mask]

    @property
    def is_bytes(self) -> bool:
        """Whether it is of byte-level BPE."""
        return self.spelling is not None and self.spelling.is_bytes

    @functools.cached_property
    def line_start(self) -> str:
        """What goes in front of the lines of a document, all but the first: what parts them in a text.

        In byte-level BPE, and where spaces are marked but not the beginning of a text, as in Gemma's
        tokenizer, the first word of a line would otherwise be the rest of the last word before it.
        """
        alone, behind_a_space = self.encode_batch(["a", " a"])
        return " " if self.is_bytes or alone != behind_a_space else ""

    @property
    def word_marks(self) -> tuple[np.ndarray, np.ndarray]:
        """[V] bool twice: the pieces that continue the word of the piece before them, and those that end a
        word, so that nothing continues it. `Spelling` says which.

        Raises:
          UserError: the tokenizer does not tell where words begin.
        """
        if self.spelling is None:
            raise UserError(
                f"{self._where} does not tell where words begin: it is not WordPiece, and it has no mark for "
                "spaces; use data.masking.strategy token"
            )
        continues, ends = (
            np.array(list(map(mark, self.pieces)))
            for mark in (self.spelling.continues_word, self.spelling.ends_word)
        )
        continues[sorted(self._whole)] = False
        return continues, ends

    def text(self, id: int) -> str:
        """A piece as text, with a space in front where a word begins."""
        piece = self.pieces[id]
        return f" {piece}" if self.spelling is None or id in self._whole else self.spelling.text(piece)

    @functools.cached_property
    def _whole(self) -> frozenset[int]:
        """Tokens that continue no word, whatever they look like: special ones, and words that were added."""
        added = self._description["added_tokens"]
        return frozenset({*self.special_tokens.ids, *(t["id"] for t in added if t["single_word"])})

    @property
    def sha256(self) -> str:
        """Of what decides the ids of a text."""
        if self._kind is None:
            return hashlib.sha256(self.files[JSON] + repr(self.special_tokens).encode()).hexdigest()
        lowercase = bytes([bool(self.settings["lowercase"])])
        return hashlib.sha256(self._native + self._kind.encode() + lowercase).hexdigest()

    def encode_batch(self, lines: list[str]) -> list[list[int]]:
        """Ids of each line, without special tokens."""
        if self._sentencepiece is None:
            return self._encoder(lines)
        encoded = self._sentencepiece.encode(lines, out_type=int, num_threads=1)
        if not self._special_in_text:
            return encoded
        unk = self.special_tokens.unk
        return [without(ids, self._special_in_text, unk=unk) for ids in encoded]

    @functools.cached_property
    def _special_in_text(self) -> frozenset[int]:
        """Special tokens that SentencePiece finds in a text: those that its model has as words."""
        is_control = self._sentencepiece.is_control
        return frozenset(id for id in self.special_tokens.never_in_text if not is_control(id))

    @functools.cached_property
    def huggingface(self) -> tokenizers.Tokenizer:
        """The same tokenizer in Hugging Face's library, which knows special tokens in a text, and puts those
        around it that its post-processor has; without one [CLS] A [SEP] B [SEP]."""
        library, names = self._in_library(), self.special_tokens.names(self.pieces)
        known = {token["content"] for token in self._description["added_tokens"]}
        library.add_special_tokens([name for name in names.values() if name not in known])
        if not self.has_own_frame:
            library.post_processor = template(names["cls"], names["sep"], self.ids)
        return library

    @functools.cached_property
    def has_own_frame(self) -> bool:
        """Whether its post-processor puts cls before a text, and sep behind it."""
        ids = self._in_library().encode("").ids
        special = self.special_tokens
        return len(ids) >= 2 and (ids[0], ids[-1]) == (special.cls, special.sep)

    def _in_library(self) -> tokenizers.Tokenizer:
        """As tokenizer.json has it, but for cutting and padding, which are settings of whoever saved it."""
        try:
            library = tokenizers.Tokenizer.from_buffer(self.files[JSON])
            library.no_truncation()
            library.no_padding()
            library.encode(PROBE, PROBE)
        except BaseException as error:  # the library raises nothing narrower, and panics
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"{self._where} is damaged, or no tokenizer.json of Hugging Face's tokenizers "
                f"({' '.join(str(error).split())})"
            ) from error
        return library

    def save(self, directory: Path | epath.Path) -> None:
        """Writes its files into `directory`, new or not."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)


def load(directory: Path | epath.Path) -> Tokenizer:
    """The tokenizer of a folder, which may be that of a model: its tokenizer.json, or an older vocab.txt.

    Whether a vocab.txt lowers the case, a tokenizer_config.json may say (`do_lower_case`); otherwise it does
    unless there are pieces that it would never find then, as in the cased models of google-research/bert.

    Raises:
      FileNotFoundError, UserError: there is none, or it is damaged.
    """
    files = files_of(directory)
    if JSON in files:
        return Tokenizer(files, where=str(directory / JSON))
    if "vocab.txt" not in files:
        raise FileNotFoundError(f"{directory} has no {JSON}, nor a vocab.txt")
    stated = settings(directory)
    pieces = files["vocab.txt"].decode(errors="replace").split("\n")
    cased = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    lowercase = bool(stated.get("do_lower_case", not cased))
    try:
        return Tokenizer(of_vocabulary(files["vocab.txt"], lowercase=lowercase, stated=stated))
    except ValueError as error:
        raise UserError(f"{directory / 'vocab.txt'}: {error}") from error


def files_of(directory: Path | epath.Path) -> dict[str, bytes]:
    """The files of a folder that belong to a tokenizer."""
    return {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}


def settings(directory: Path | epath.Path) -> dict[str, Any]:
    """What Hugging Face's tokenizer_config.json says. Raises UserError if it is damaged."""
    file = directory / SETTINGS
    return read_object(file) if file.is_file() else {}


def _stated(files: Mapping[str, bytes], *, where: str) -> dict[str, Any]:
    """The same, and what only the older special_tokens_map.json says."""
    stated: dict[str, Any] = {}
    for name in (OLDER_SETTINGS, SETTINGS):
        fields = parse_object(files[name], f"{name} beside {where}") if name in files else {}
        stated |= {field: value for field, value in fields.items() if value is not None}
    return stated
