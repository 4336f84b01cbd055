"""Examples to rows of token ids, as Hugging Face's tokenizers cut them, and the way back.

Owns how a text, a pair, the words of a sentence or a question with its context become `[CLS] A [SEP]` or
`[CLS] A [SEP] B [SEP]`, and which columns carry a label. Reads no files and makes no batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import tokenizers

from bert_jax.tasks.examples import Answer, Example, Question, Text, Words
from bert_jax.tasks.pieces import Pieces
from data_pipeline.config import Head, TaskConfig
from data_pipeline.errors import UserError, require

LONGEST_QUESTION = 64
"""Tokens; of a short row, a quarter (google-research/bert/run_squad.py: max_query_length)."""


class Features(NamedTuple):
    """N rows of S columns. Usually a row is an example; a long context is several rows.

    arrays       the batch contract's token_ids, segment_ids, position_ids, token_type_ids: [N, S] int32, and
                 where the examples have labels, `labels` and float32 `weights` (0.0 is not to be learned):
                   classification  [N] int32, index in the labels     [N]
                   regression      [N] float32                        [N]
                   tokens          [N, S] int32, at first pieces      [N, S] 1.0 at first pieces
                   qa              [N, 2] int32, the answer's first   [N]
                                   and last column; 0, 0 ([CLS])
                                   where the row has not all of it
    examples_N   int32: the example that a row is of
    places       int32, from columns to what the example is made of:
                   tokens          [N, S] the word of which this is the first piece, else -1
                   qa              [N, S, 2] first character in the context and the one after the last, or
                                   -1, -1 where a column has none of the context
                   others          [N, 0]
    cut          `where` of each text, sentence or question that lost its end; a context loses nothing
    """

    arrays: dict[str, np.ndarray]
    examples_N: np.ndarray
    places: np.ndarray
    cut: list[str]


def featurize(
    head: Head,
    examples: Sequence[Example],
    tokenizer: tokenizers.Tokenizer,
    *,
    sequence_length: int,
    labels: Sequence[str],
    task: TaskConfig,
) -> Features:
    """Rows of all examples, in order.

    Raises:
      UserError: a label is not in `labels`, only some examples have one, the tokenizer has no [CLS], [SEP]
        or [UNK], or `task.stride` leaves no window of a context.
    """
    pieces = Pieces(tokenizer)
    index = {label: i for i, label in enumerate(labels)}
    S = sequence_length
    match head:
        case "classification" | "regression":
            return _of_texts(head, cast(Sequence[Text], examples), pieces, S=S, index=index)
        case "tokens":
            return _of_words(cast(Sequence[Words], examples), pieces, S=S, index=index)
        case "qa":
            return _of_questions(cast(Sequence[Question], examples), pieces, S=S, stride=task.stride)


def _arrays(
    rows: Sequence[tuple[list[int], list[int] | None]], pieces: Pieces, *, S: int
) -> dict[str, np.ndarray]:
    """[CLS] A [SEP], or with a B, [CLS] A [SEP] B [SEP]."""
    names = ("token_ids", "segment_ids", "position_ids", "token_type_ids")
    arrays = {name: np.zeros((len(rows), S), np.int32) for name in names}
    for n, (first, second) in enumerate(rows):
        ids = [pieces.cls, *first, pieces.sep]
        if second is not None:
            arrays["token_type_ids"][n, len(ids) : len(ids) + len(second) + 1] = 1
            ids += [*second, pieces.sep]
        arrays["token_ids"][n, : len(ids)] = ids
        arrays["segment_ids"][n, : len(ids)] = 1
        arrays["position_ids"][n, : len(ids)] = np.arange(len(ids))
    return arrays


def _of_texts(
    head: Head, examples: Sequence[Text], pieces: Pieces, *, S: int, index: dict[str, int]
) -> Features:
    rows: list[tuple[list[int], list[int] | None]] = []
    cut = []
    firsts = pieces.of_texts([example.text for example in examples])
    seconds = pieces.of_texts([example.pair or "" for example in examples])
    for example, first, second in zip(examples, firsts, seconds, strict=True):
        if example.pair is None:
            kept, kept_second = min(len(first), S - 2), 0
        else:
            kept, kept_second = _longest_first(len(first), len(second), room=S - 3)
        rows.append((first[:kept], None if example.pair is None else second[:kept_second]))
        if kept + kept_second < len(first) + len(second):
            cut.append(example.where)
    arrays = _arrays(rows, pieces, S=S)
    if _labelled(examples, [example.label for example in examples]):
        if head == "classification":
            known = [_label(example, example.label, index) for example in examples]
            arrays["labels"] = np.array(known, np.int32)
        else:
            arrays["labels"] = np.array([example.label for example in examples], np.float32)
        arrays["weights"] = np.ones(len(rows), np.float32)
    return Features(arrays, np.arange(len(rows), dtype=np.int32), np.zeros((len(rows), 0), np.int32), cut)


def _longest_first(first: int, second: int, *, room: int) -> tuple[int, int]:
    """Lengths that a pair keeps: the longer text is cut to the other's length, then both to half the room.

    The odd token goes to the longer text, of two equal ones to the second (Hugging Face's `longest_first`).
    """
    shorter = min(first, second, room // 2)
    longer = min(max(first, second), room - shorter)
    return (longer, shorter) if first > second else (shorter, longer)


def _of_words(examples: Sequence[Words], pieces: Pieces, *, S: int, index: dict[str, int]) -> Features:
    rows = []
    cut = []
    words_NxS = np.full((len(examples), S), -1, np.int32)
    encoded = pieces.of_words([list(example.words) for example in examples])
    for n, (example, by_word) in enumerate(zip(examples, encoded, strict=True)):
        rows.append(([i for word in by_word for i in word][: S - 2], None))
        first_columns = 1 + np.cumsum([0, *map(len, by_word)])
        inside = np.flatnonzero(first_columns[:-1] < S - 1)
        words_NxS[n, first_columns[inside]] = inside
        if first_columns[-1] > S - 1:
            cut.append(example.where)
    arrays = _arrays(rows, pieces, S=S)
    if _labelled(examples, [example.labels for example in examples]):
        arrays["labels"] = np.zeros((len(rows), S), np.int32)
        for n, example in enumerate(examples):
            assert example.labels is not None
            assert len(example.labels) == len(example.words), example.where
            known = np.array([_label(example, label, index) for label in example.labels], np.int32)
            columns = np.flatnonzero(words_NxS[n] >= 0)
            arrays["labels"][n, columns] = known[words_NxS[n, columns]]
        arrays["weights"] = (words_NxS >= 0).astype(np.float32)
    return Features(arrays, np.arange(len(rows), dtype=np.int32), words_NxS, cut)


def _of_questions(examples: Sequence[Question], pieces: Pieces, *, S: int, stride: int) -> Features:
    """Each question with one window of its context after the other.

    An answer without a piece of its own, such as a lone joiner, counts as none. Of several people's answers
    the first is learned.
    """
    longest = min(LONGEST_QUESTION, S // 4)
    require(
        stride < S - 3 - longest,
        f"task.stride is {stride}; after a question of {longest} tokens a row of task.sequence_length {S} "
        f"has {S - 3 - longest} for the context, and neighbouring windows must share less than that",
    )
    contexts = list(dict.fromkeys(example.context for example in examples))  # many questions are about one
    encoded = dict(zip(contexts, pieces.with_spans(contexts), strict=True))
    labelled = _labelled(examples, [example.answers for example in examples])
    rows, owners, spans, labels, cut = [], [], [], [], []
    questions = pieces.of_texts([example.question for example in examples])
    for n, (example, question) in enumerate(zip(examples, questions, strict=True)):
        if len(question) > longest:
            cut.append(example.where)
        question = question[:longest]
        ids, spans_Lx2 = encoded[example.context]
        answer = _answer_pieces(spans_Lx2, example.answers[0]) if example.answers else None
        before, room = len(question) + 2, S - 3 - len(question)
        for start in _window_starts(len(ids), room=room, stride=stride):
            rows.append((question, ids[start : start + room]))
            owners.append(n)
            window = spans_Lx2[start : start + room]
            spans.append(np.pad(window, ((before, S - before - len(window)), (0, 0)), constant_values=-1))
            inside = answer is not None and start <= answer[0] and answer[1] < start + room
            labels.append([before + piece - start for piece in answer] if answer and inside else [0, 0])
    arrays = _arrays(rows, pieces, S=S)
    if labelled:
        arrays["labels"] = np.array(labels, np.int32).reshape(-1, 2)
        arrays["weights"] = np.ones(len(rows), np.float32)
    places = np.array(spans, np.int32).reshape(-1, S, 2)
    return Features(arrays, np.array(owners, np.int32), places, cut)


def _window_starts(length: int, *, room: int, stride: int) -> range:
    """First piece of each window: neighbours share `stride` pieces, the last one reaches the end."""
    return range(0, max(length - stride, 1), room - stride)


def _answer_pieces(spans_Lx2: np.ndarray, answer: Answer) -> tuple[int, int] | None:
    """First and last piece of an answer. One that begins or ends inside a piece takes all of the piece."""
    end = answer.start + len(answer.text)
    touched = np.flatnonzero((spans_Lx2[:, 1] > answer.start) & (spans_Lx2[:, 0] < end))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _labelled(examples: Sequence[Example], labels: Sequence[object]) -> bool:
    """Whether all examples have a label; they are to be learned or scored together, or none is."""
    without = [example for example, label in zip(examples, labels, strict=True) if label is None]
    require(
        len(without) in (0, len(examples)),
        f"{without[0].where} has no label, and other examples have" if without else "",
    )
    return not without


def _label(example: Example, label: str | float | None, index: dict[str, int]) -> int:
    if label not in index:
        raise UserError(f"{example.where} has the label {label!r}; known are {', '.join(map(repr, index))}")
    return index[label]
