"""How labels of words say where entities begin and end: IOB, IOBES, BILOU, BMES."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

SCHEMES = {"B": "B", "I": "I", "M": "I", "E": "E", "S": "S", "L": "E", "U": "S"}
"""The prefixes of labels in IOB1, IOB2, IOE, IOBES, BILOU and BMES, and what each is in IOBES."""

_LETTER = f"(?P<letter>[{''.join(SCHEMES)}])"
FORMS = (f"{_LETTER}[-_:.](?P<type>.+)", f"(?P<type>.+)[-_:.]{_LETTER}", _LETTER)
"""Of labels that have such a prefix, B-PER or B_PER; that have it at their end, PER-B; and that are it."""


class Scheme(NamedTuple):
    """How labels say where entities begin."""

    form: str
    """One of FORMS."""
    outside: str
    """The label of words that are in none."""


def scheme_of(labels: Sequence[str]) -> Scheme | None:
    """That of most labels beside the one of the outside. None: they are parts of speech, or of other kinds.

    The outside is "O" or, beside labels with a type and without that, the only label that is not of the form.
    """
    for form in FORMS:
        others = [label for label in labels if not re.fullmatch(form, label, re.IGNORECASE)]
        outside = others[0] if len(others) == 1 and "O" not in labels and form != _LETTER else "O"
        inside = len({*labels} - {outside})
        fitting = len(labels) - len(others)
        if 2 * fitting > inside and (form != _LETTER or fitting == inside):
            return Scheme(form, outside)
    return None if {*labels} - {"O"} else Scheme(_LETTER, "O")


def iobes(label: str, scheme: Scheme) -> str:
    """The label as IOBES has it, for seqeval. One that is not of the form is an entity of one word."""
    if label in (scheme.outside, "O"):
        return "O"
    found = re.fullmatch(scheme.form, label, re.IGNORECASE)
    if found is None:
        return f"S-{label}"
    letter, kind = SCHEMES[found["letter"].upper()], found.groupdict().get("type")
    return letter if kind is None else f"{letter}-{kind}"
