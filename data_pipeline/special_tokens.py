"""The special tokens of a tokenizer, by what they are for. Standard library only.

Which token has which role, a tokenizer's folder says: tokenizer_config.json, or an older
special_tokens_map.json. Where it does not, the usual names count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.errors import UserError, require

USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""What a token with each role is called: BERT's names, then RoBERTa's."""

ALSO = {"cls": "bos", "sep": "eos"}
"""Where a tokenizer names no cls or sep, its beginning and end of a sequence stand for them."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are no text. The defaults are those of a tokenizer that is trained here."""

    pad: int = 0
    unk: int | None = 1
    """None where nothing is unknown, as with bytes."""
    cls: int = 2
    sep: int = 3
    mask: int = 4
    others: tuple[int, ...] = ()
    """Those without a role here, such as <|endoftext|>, and ids that no token has."""

    @property
    def ids(self) -> list[int]:
        """All of them, sorted: never predicted, and never the random token in place of another one."""
        roles = (getattr(self, role) for role in USUAL)
        return sorted({id for id in (*roles, *self.others) if id is not None})

    def names(self, pieces: Mapping[int, str] | Sequence[str]) -> dict[str, str]:
        """What they are called in a vocabulary, by role."""
        by_role = {role: getattr(self, role) for role in USUAL}
        return {role: pieces[id] for role, id in by_role.items() if id is not None}

    @property
    def never_in_text(self) -> frozenset[int]:
        """Those that no text has; [UNK] stands for what the vocabulary lacks."""
        return frozenset(self.ids) - {self.unk}


def special_tokens_of(
    ids: Mapping[str, int], stated: Mapping[str, Any], *, others: Iterable[int], where: str
) -> SpecialTokens:
    """The special tokens of a vocabulary.

    Args:
      ids: of all pieces.
      stated: what tokenizer_config.json says, among other things: "mask_token" and the like.
      others: ids of further special tokens.
      where: the name of the tokenizer, for messages.

    Raises:
      UserError: a role that pretraining needs has no token.
    """
    roles: dict[str, int] = {}
    for role, usual in USUAL.items():
        fields = [f"{name}_token" for name in (role, ALSO.get(role)) if name]
        name = next((found for field in fields if (found := _name(stated.get(field)))), None)
        require(
            name is None or name in ids or role == "unk",
            f"{where} has no token {name!r}, which is its {role}_token by the tokenizer_config.json (or "
            "special_tokens_map.json) beside it: name another one there",
        )
        if known := [ids[piece] for piece in ((name,) if name else usual) if piece in ids]:
            roles[role] = known[0]
    if missing := [role for role in USUAL if role not in roles and role != "unk"]:
        needed = " and no ".join(f"{role} token ({' or '.join(USUAL[role])})" for role in missing)
        named = ", ".join(f"{role}_token" for role in missing)
        raise UserError(
            f"{where} has no {needed}; add it to the vocabulary, or say which token that is in the "
            f"tokenizer_config.json beside it ({named})"
        )
    require(
        list(roles.values()).count(roles["mask"]) == 1,
        f"{where} has a mask token that is also its pad, unk, cls or sep token; it needs one of its own",
    )
    unk = roles.pop("unk", None)
    return SpecialTokens(**roles, unk=unk, others=tuple(sorted({*others} - {*roles.values(), unk})))


def _name(value: Any) -> str | None:
    """Of a token as these files have it: a string, or an object with its content."""
    name = value.get("content") if isinstance(value, dict) else value
    require(name is None or isinstance(name, str), f"a special token is {value!r}, which names none")
    return name
