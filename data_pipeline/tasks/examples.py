"""Examples of downstream tasks, as a person wrote them: from files or TFDS.

Whatever is wrong with one is said with its file and row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """To classify, or to give a number."""

    where: str
    """`file.tsv row 7`, for messages. Rows count from 1, the header is none."""
    text: str
    pair: str | None = None
    label: str | float | None = None
    """A float for regression. None: unknown, it is to be predicted."""


@dataclass(frozen=True)
class Words:
    """A sentence, each of whose words has a label."""

    where: str
    words: tuple[str, ...]
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    text: str
    start: int
    """Character of the context with which it begins."""


@dataclass(frozen=True)
class Question:
    """About a context that has the answer, or not."""

    where: str
    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] | None = None
    """Several people's answers; () where the context has none. None: unknown, it is to be predicted."""


Example = Text | Words | Question
