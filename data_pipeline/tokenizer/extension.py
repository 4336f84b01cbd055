"""More pieces for a tokenizer that is there already: in place of its unused ones, then behind its last one.

A piece of WordPiece, which takes the longest one that fits, needs no more than a place in the vocabulary. In
any other tokenizer a piece is an added token, a whole word that is found before the text is cut, as those of
Transformers' `add_tokens`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.tokenizer.conversion import NATIVE
from data_pipeline.tokenizer.tokenizer import JSON, SETTINGS, Tokenizer

FIELD = "data.tokenizer.added_tokens"


def is_unused(piece: str) -> bool:
    """Whether it is a slot that was left for a piece to come, as BERT, ModernBERT and Gemma have them."""
    return bool(re.fullmatch(r"\[unused\d+\]|<unused\d+>", piece))


def extended(words: Tokenizer, added: Sequence[str]) -> Tokenizer:
    """`words` with the pieces of `added` too; all others but unused ones keep their ids.

    Raises:
      UserError: one is a piece already, or would not be found in a text.
    """
    if known := [piece for piece in added if piece in words.ids]:
        raise UserError(f"{FIELD} has {known[0]!r}, which is a piece of data.tokenizer.vocab_file already")
    slots = [piece for piece in words.pieces if is_unused(piece)]
    taken = dict(zip(slots, added, strict=False))
    appended = {piece: words.vocab_size + n for n, piece in enumerate(added[len(taken) :])}
    ids = {piece: words.ids[slot] for slot, piece in taken.items()} | appended
    description = json.loads(words.files[JSON])
    is_wordpiece = description["model"]["type"] == "WordPiece"
    if is_wordpiece and len(description["model"]["vocab"]) == words.vocab_size:
        files = _in_vocabulary(words, description, taken, appended)
    else:
        files = _as_added_tokens(words, description, taken, ids)
    found = Tokenizer(files)
    for piece, id in words.ids.items():
        if piece not in taken and found.ids.get(piece) != id:
            raise UserError(f"{FIELD}: data.tokenizer.vocab_file has no room, its piece {piece!r} would move")
    _check_found(found, ids)
    return found


def _in_vocabulary(
    words: Tokenizer, description: dict[str, Any], taken: Mapping[str, str], appended: Mapping[str, int]
) -> dict[str, bytes]:
    """The files, with the pieces in the model itself."""
    vocabulary = _renamed(description["model"]["vocab"], taken) | appended
    description["model"]["vocab"] = vocabulary
    description["added_tokens"] = [t for t in description["added_tokens"] if t["content"] not in taken]
    files = words.files | {JSON: _dumped(description)}
    if NATIVE["wordpiece"] in files:
        lines = "".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__))
        files[NATIVE["wordpiece"]] = lines.encode()
    return files


def _as_added_tokens(
    words: Tokenizer, description: dict[str, Any], taken: Mapping[str, str], ids: Mapping[str, int]
) -> dict[str, bytes]:
    """The files, with the pieces as added tokens. SentencePiece's own model, which has none, is left out."""
    # Where a word carries the space before it, so does a token that is one.
    takes_space = words.spelling is not None and bool(words.spelling.space)
    flags = {
        "single_word": True,
        "lstrip": takes_space,
        "rstrip": False,
        "normalized": True,
        "special": False,
    }
    description["model"]["vocab"] = _renamed(description["model"]["vocab"], taken)
    tokens = [token for token in description["added_tokens"] if token["content"] not in taken]
    tokens += [{"id": id, "content": piece, **flags} for piece, id in ids.items()]
    description["added_tokens"] = sorted(tokens, key=lambda token: token["id"])
    files = {name: content for name, content in words.files.items() if name != NATIVE["unigram"]}
    if SETTINGS in files:  # where Transformers looks for added tokens too
        stated = json.loads(files[SETTINGS])
        listed = stated.get("added_tokens_decoder", {})
        listed |= {str(id): {"content": p, **flags} for p, id in ids.items() if str(id) in listed}
        files[SETTINGS] = _dumped(stated)
    return files | {JSON: _dumped(description)}


def _renamed(vocabulary: Any, taken: Mapping[str, str]) -> Any:
    """The vocabulary of a model: a dict, or of Unigram a list with scores."""
    if isinstance(vocabulary, dict):
        return {taken.get(piece, piece): id for piece, id in vocabulary.items()}
    return [[taken.get(piece, piece), score] for piece, score in vocabulary]


def _check_found(words: Tokenizer, ids: Mapping[str, int]) -> None:
    mark = words.spelling.continuation if words.spelling else ""
    alone = [piece for piece in ids if not (mark and piece.startswith(mark))]
    for piece, found in zip(alone, words.encode_batch(alone), strict=True):
        if found != [ids[piece]]:
            cut = " ".join(words.pieces[id] for id in found)
            raise UserError(
                f"{FIELD} has {piece!r}, which no text would have: the tokenizer makes {cut!r} of it; give a "
                "single word, as it normalizes it"
            )


def _dumped(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, indent=2).encode()
