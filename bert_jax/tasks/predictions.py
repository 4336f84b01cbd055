"""Logits of a fine-tuned model -> what it says of each example, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from bert_jax.tasks.examples import Example, Question, Words
from bert_jax.tasks.features import Features
from data_pipeline.config import Head, TaskConfig


def predict(
    head: Head,
    examples: Sequence[Example],
    features: Features,
    logits: np.ndarray,
    *,
    labels: Sequence[str],
    task: TaskConfig,
) -> list[dict[str, Any]]:
    """One dict an example, in order.

    Args:
      logits: float, a row for each row of `features`:
        classification  [N, C]     -> label, scores: {label: probability}
        regression      [N, 1]     -> score
        tokens          [N, S, C]  -> words, labels: None for a word that did not fit in the row
        qa              [N, S, 2]  -> id, answer, start, score, no_answer_score; see `_of_question`
    """
    assert len(logits) == len(features.examples_N)
    match head:
        case "classification":
            return [_of_text(probabilities_C, labels) for probabilities_C in _softmax(logits)]
        case "regression":
            return [{"score": float(score)} for score in logits[:, 0]]
        case "tokens":
            best_NxS = logits.argmax(axis=-1)
            sentences = cast(Sequence[Words], examples)
            rows = zip(sentences, features.places, best_NxS, strict=True)
            return [_of_words(example, words_S, best_S, labels) for example, words_S, best_S in rows]
        case "qa":
            # The rows of an example are neighbours.
            bounds = np.searchsorted(features.examples_N, np.arange(len(examples) + 1))
            questions = enumerate(cast(Sequence[Question], examples))
            windows = [slice(bounds[n], bounds[n + 1]) for n in range(len(examples))]
            return [
                _of_question(example, features.places[windows[n]], logits[windows[n]], task.longest_answer)
                for n, example in questions
            ]


def _softmax(logits_NxC: np.ndarray) -> np.ndarray:
    exponentials_NxC = np.exp(logits_NxC.astype(np.float64) - logits_NxC.max(axis=-1, keepdims=True))
    return exponentials_NxC / exponentials_NxC.sum(axis=-1, keepdims=True)


def _of_text(probabilities_C: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    scores = dict(zip(labels, probabilities_C.tolist(), strict=True))
    return {"label": labels[int(probabilities_C.argmax())], "scores": scores}


def _of_words(
    example: Words, words_S: np.ndarray, best_S: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    said: list[str | None] = [None] * len(example.words)
    for word, best in zip(words_S.tolist(), best_S.tolist(), strict=True):
        if word >= 0:
            said[word] = labels[best]
    return {"words": list(example.words), "labels": said}


def _of_question(
    example: Question, spans_WxSx2: np.ndarray, logits_WxSx2: np.ndarray, longest_answer: int
) -> dict[str, Any]:
    """The best answer of W windows, if it scores at least as much as "no answer".

    A score is the sum of two logits: of the answer's first and last column; of [CLS] twice for no answer, in
    the window that is least sure of it (google-research/bert/run_squad.py: write_predictions, with
    null_score_diff_threshold 0). `score` is the best answer's, whether given or not, and None where the
    context has no pieces.
    """
    found = [
        _best_span(spans_Sx2, logits_Sx2.astype(np.float64), longest_answer)
        for spans_Sx2, logits_Sx2 in zip(spans_WxSx2, logits_WxSx2, strict=True)
    ]
    score, start, end = max(found, key=lambda span: span[0])  # the first of equal ones
    no_answer = float(logits_WxSx2[:, 0].astype(np.float64).sum(axis=-1).min())
    possible, given = score > -np.inf, score > -np.inf and score >= no_answer
    return {
        "id": example.id,
        "answer": example.context[start:end] if given else "",
        "start": start if given else None,
        "score": score if possible else None,
        "no_answer_score": no_answer,
    }


def _best_span(spans_Sx2: np.ndarray, logits_Sx2: np.ndarray, longest: int) -> tuple[float, int, int]:
    """Score, first character and the one after the last, of at most `longest` columns of the context.

    The score is -inf where the row has nothing of the context.
    """
    outside_S = spans_Sx2[:, 0] < 0
    starts_S, ends_S = np.where(outside_S[:, None], -np.inf, logits_Sx2).T
    longest = min(longest, len(ends_S))
    # Row s has the ends that belong to a start at s: s, s + 1, ... s + longest - 1.
    ends_SxE = np.lib.stride_tricks.sliding_window_view(
        np.pad(ends_S, (0, longest - 1), constant_values=-np.inf), longest
    )
    best_S = starts_S + ends_SxE.max(axis=1)
    first = int(best_S.argmax())
    last = first + int(ends_SxE[first].argmax())
    return float(best_S[first]), int(spans_Sx2[first, 0]), int(spans_Sx2[last, 1])
