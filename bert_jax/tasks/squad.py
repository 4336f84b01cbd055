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
from data_pipeline.corpus import sanitize
from data_pipeline.errors import UserError

COLUMNS = ("id", "question", "context", "answers")
"""SQuAD's: `id` may be missing, and is the row then; `answers` is {"text": [...], "answer_start": [...]}."""


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
    formats = {".json": _squad, ".jsonl": records.json_lines}
    found = records.read(source, formats, kind=settings.kind, columns=COLUMNS)
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


def _squad(path: str) -> Iterator[records.Record]:
    content = records.parse_json("".join(records.lines_of(path)), path)
    try:
        flat = [
            _flat(paragraph["context"], question)
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not have SQuAD's form, data[].paragraphs[].qas[] ({error})") from error
    for number, record in enumerate(flat, 1):
        yield f"{path} row {number}", record


def _flat(context: str, question: dict[str, Any]) -> dict[str, Any]:
    """A question of SQuAD's tree, with the columns that Hugging Face and TFDS make of it."""
    record = {name: question[name] for name in ("id", "question") if name in question} | {"context": context}
    answers = [] if question.get("is_impossible") else question.get("answers")
    if answers is not None:
        starts = [answer.get("answer_start") for answer in answers]
        record["answers"] = {"text": [answer["text"] for answer in answers], "answer_start": starts}
    return record


def _examples(
    found: Iterable[records.Record], settings: QuestionAnsweringConfig, *, labelled: bool
) -> Iterator[Question | Empty]:
    seen: dict[str, str] = {}
    numbers = itertools.count(1)

    def make(where: str, record: dict[str, Any]) -> Question:
        number = next(numbers)
        name = columns.identifier(where, "id", record["id"]) if "id" in record else str(number)
        if name in seen:
            raise UserError(f"{where}: the id {name!r} is that of {seen[name]} too")
        seen[name] = where
        asked = f"{where}, question {name!r}"
        question = columns.string(asked, record, "question")
        context = columns.string(asked, record, "context")
        answers = None
        if labelled:
            given = columns.column(asked, record, "answers")
            answers = tuple(_answers(asked, given, record["context"], find=settings.find_answers))
        return Question(where, name, question, context, answers)

    return records.examples(found, make, labelled=labelled)


def _answers(where: str, value: Any, context: str, *, find: bool) -> Iterator[Answer]:
    match value:
        case {"text": list(texts), "answer_start": list(starts)} if len(texts) == len(starts):
            pairs = zip(texts, starts, strict=True)
        case _:
            raise UserError(
                f"{where}: 'answers' is not {{'text': [...], 'answer_start': [...]}} with as many of each"
            )
    for text, given in pairs:
        if not isinstance(text, str) or not sanitize(text).strip():
            raise UserError(f"{where}: the answer {text!r} is no text")
        start = _whole_number(given)
        if start is None or not context.startswith(text, start):
            found = _place(text, start, context)
            if found is None or not find:
                advice = f", but at {found}: --task.find-answers takes that" if found is not None else ""
                raise UserError(f"{where}: the answer {text!r} is not at character {given!r}{advice}")
            start = found
        # Starts were counted before the context was sanitized, which may have made it shorter.
        yield Answer(sanitize(text), len(sanitize(context[:start])))


def _whole_number(value: Any) -> int | None:
    """An answer's start, which JSON may hold as 10, 10.0 or "10"; None if it is no number from 0 on."""
    match value:
        case bool():
            return None
        case int() | float() if value >= 0 and value == value // 1:
            return int(value)
        case str() if re.fullmatch(r"\s*[0-9]{1,9}\s*", value, re.ASCII):
            return int(value)
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
