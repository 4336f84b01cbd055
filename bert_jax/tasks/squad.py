"""Questions about contexts, and where the answers are: SQuAD's tree, and the rows that others make of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bert_jax.config import QuestionAnsweringConfig
from bert_jax.tasks import columns, records
from bert_jax.tasks.records import Empty
from data_pipeline.corpus import is_blank, sanitize
from data_pipeline.errors import UserError

COLUMNS = ("id", "question", "context", "answers", "is_impossible")
"""SQuAD's; `id` may be missing, and is the row then. Of what `answers` and `is_impossible` may be, see
`_answers`."""


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


def read(source: str, settings: QuestionAnsweringConfig, *, labelled: bool = True) -> list[Question | Empty]:
    """Reads .json in SQuAD's form, version 1.1 or 2, .jsonl with SQuAD's columns, or TFDS."""
    formats = {".json": _tree, ".jsonl": records.json_lines}
    found = records.read(source, formats, kind=settings.kind, columns=COLUMNS)
    if labelled and any("answers" in record for _, record in found):  # else unknown, as of a test set
        found = [(where, {"answers": None} | record) for where, record in records.filled(found)]
    return list(_examples(found, settings, labelled=labelled))


def read_stdin(lines: Iterable[bytes], settings: QuestionAnsweringConfig) -> Iterator[Question | Empty]:
    """A JSON object a line, with question and context."""
    text = records.decoded(lines, records.STDIN)
    found = records.json_objects(records.STDIN, text, wanted=("question", "context"))
    return _examples(found, settings, labelled=False)


def example(text: str, pair: str | None, settings: QuestionAnsweringConfig) -> Question:
    if pair is None:
        raise UserError("give the context of the question with --pair")
    return Question("the question", "0", text, pair)


def _tree(path: str) -> Iterator[records.Record]:
    """SQuAD's own form: the questions, each with its context."""
    content = records.parse_json("".join(records.lines_of(path)), path)
    try:
        flat = [
            question | {"context": paragraph["context"]}
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not have SQuAD's form, data[].paragraphs[].qas[] ({error})") from error
    for number, record in enumerate(flat, 1):
        yield f"{path} row {number}", record


def _examples(
    found: Iterable[records.Record], settings: QuestionAnsweringConfig, *, labelled: bool
) -> Iterator[Question | Empty]:
    seen: dict[str, str] = {}
    numbers = itertools.count(1)

    def make(where: str, record: dict[str, Any]) -> Question:
        number = next(numbers)
        given = record.get("id")
        name = str(number) if given is None else columns.identifier(where, "id", given)
        if name in seen:
            raise UserError(f"{where}: the id {name!r} is that of {seen[name]} too")
        seen[name] = where
        asked = f"{where}, question {name!r}"
        question = columns.string(asked, record, "question")
        context = columns.string(asked, record, "context")
        answers = tuple(_answers(asked, record, find=settings.find_answers)) if labelled else None
        return Question(where, name, question, context, answers)

    return records.examples(found, make, labelled=labelled)


def _answers(where: str, record: dict[str, Any], *, find: bool) -> Iterator[Answer]:
    """Of a record whose context is a text. None if it `is_impossible`, or its `answers` are null or empty.

    Args:
      find: takes an answer that is not at its start from its place in the context, if that is known.
    """
    if _is_impossible(where, record.get("is_impossible")):
        return
    context = record["context"]
    for text, given in _pairs(where, columns.column(where, record, "answers")):
        if not isinstance(text, str) or is_blank(sanitize(text)):
            raise UserError(f"{where}: the answer {text!r} is no text; 'answers' is [] where there is none")
        start = _whole_number(given)
        if start is None or not context.startswith(text, start):
            found = _place(text, start, context)
            if found is None or not find:
                advice = _advice(text, context, found)
                raise UserError(f"{where}: the answer {text!r} is not at character {given!r}, {advice}")
            start = found
        # Starts were counted before the context was sanitized, which may have made it shorter.
        yield Answer(sanitize(text), len(sanitize(context[:start])))


def _is_impossible(where: str, value: Any) -> bool:
    if value is None:
        return False
    known = {"true": True, "1": True, "false": False, "0": False}
    said = columns.canonical(str(value).strip())
    if said not in known:
        raise UserError(f"{where}: 'is_impossible' is {value!r}, neither true nor false")
    return known[said]


def _pairs(where: str, value: Any) -> list[tuple[Any, Any]]:
    """Text and start of each answer: SQuAD has a list of pairs, and Hugging Face a pair of lists."""
    match value:
        case None:
            return []
        case dict() if not value:
            return []
        case {"text": list(texts)}:
            starts = value.get("answer_start", [None] * len(texts))
            if isinstance(starts, list) and len(starts) == len(texts):
                return list(zip(texts, starts, strict=True))
        case [*pairs] if all(isinstance(pair, dict) and "text" in pair for pair in pairs):
            return [(pair["text"], pair.get("answer_start")) for pair in pairs]
    raise UserError(
        f"{where}: 'answers' is neither [{{'text': ..., 'answer_start': ...}}] nor {{'text': [...], "
        "'answer_start': [...]} with as many of each"
    )


def _whole_number(value: Any) -> int | None:
    """An answer's start, which JSON may hold as 10, 10.0 or "10.0"; None if it is no number from 0 on."""
    match value:
        case bool():
            return None
        case int() | float() if value >= 0 and value == value // 1:
            return int(value)
        case str() if re.fullmatch(r"\s*[0-9]{1,9}(\.0*)?\s*", value, re.ASCII):
            return int(float(value))
    return None


def _place(text: str, start: int | None, context: str) -> int | None:
    """Where an answer is, that is not at its start: its only place; or the one that is meant, where starts
    were counted in units of UTF-16, as JavaScript counts, or in bytes. None: it cannot be known."""
    first = context.find(text)
    if first < 0 or context.find(text, first + 1) < 0:
        return None if first < 0 else first
    for encoding, width in ("utf-16-le", 2), ("utf-8", 1):
        before = context.encode(encoding, "surrogatepass")[: (start or 0) * width]
        place = len(before.decode(encoding, "replace"))
        if start is not None and context.startswith(text, place):
            return place
    return None


def _advice(text: str, context: str, place: int | None) -> str:
    """What to do about an answer that is not at its start but at `place`, or where it cannot be known."""
    if place is not None:
        return f"but at {place}: --task.find-answers takes that"
    count = len(re.findall(f"(?={re.escape(text)})", context))
    if count:
        return f"but {count} times in the context: correct the character, to that of the one that is meant"
    return "and nowhere in the context: write it as it is there, or leave the question out"
