"""Extractive question answering: the part of a context that answers a question (Devlin et al. 2018, 4.2).

Shapes in names: B rows of a batch, N rows of all examples, W windows of one context, S row length, L pieces.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config import EncoderConfig, QuestionAnsweringConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.cross_entropy import cross_entropy
from bert_jax.tasks import classification, squad
from bert_jax.tasks.features import Features, all_labelled, make_arrays
from bert_jax.tasks.pieces import Pieces
from bert_jax.tasks.squad import Answer, Question
from bert_jax.tasks.task import Target, lacks_head
from data_pipeline.config import DataConfig
from data_pipeline.errors import require
from data_pipeline.tokenizer import Tokenizer

Config = QuestionAnsweringConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForQuestionAnswering"

LONGEST_QUESTION = 64
"""Tokens; of a short row, a quarter (google-research/bert/run_squad.py: max_query_length)."""

kept_bytes = classification.kept_bytes


# Examples

read = squad.read
read_stdin = squad.read_stdin
example = squad.example


def with_labels(settings: QuestionAnsweringConfig, examples: Sequence[Question]) -> QuestionAnsweringConfig:
    """A question has no labels."""
    return settings


def featurize(
    examples: Sequence[Question], tokenizer: Tokenizer, settings: QuestionAnsweringConfig
) -> Features:
    """Each question with one window of its context after the other.

    labels: [N, 2] int32, the answer's first and last column; 0, 0 ([CLS]) where the row has not all of it;
    weights: [N]; places: [N, S, 2], first character in the context and the one after the last, or -1, -1
    where a column has none of the context. An answer without a piece of its own, such as a lone joiner,
    counts as none. Of several people's answers the first is learned.
    """
    S, pieces, stride = settings.sequence_length, Pieces(tokenizer), settings.stride
    longest, frame = min(LONGEST_QUESTION, S // 4), pieces.paired
    least = S - frame.size - longest
    require(
        stride < least,
        f"task.stride is {stride}; after a question of {longest} tokens a row of task.sequence_length {S} "
        f"has {least} for the context, and neighbouring windows must share less than that",
    )
    contexts = list(dict.fromkeys(example.context for example in examples))  # many questions are about one
    encoded = dict(zip(contexts, pieces.with_spans(contexts), strict=True))
    labelled = all_labelled(examples, [example.answers for example in examples])
    rows: list[tuple[list[int], list[int] | None]] = []
    owners, spans, labels, cut = [], [], [], []
    questions = pieces.of_texts([example.question for example in examples])
    for n, (example, question) in enumerate(zip(examples, questions, strict=True)):
        if len(question) > longest:
            cut.append(example.where)
        question = question[:longest]
        ids, spans_Lx2 = encoded[example.context]
        answer = _answer_pieces(spans_Lx2, example.answers[0]) if example.answers else None
        before, room = len(frame.before + question + frame.between), S - frame.size - len(question)
        for start in _window_starts(len(ids), room=room, stride=stride):
            rows.append((question, ids[start : start + room]))
            owners.append(n)
            window = spans_Lx2[start : start + room]
            spans.append(np.pad(window, ((before, S - before - len(window)), (0, 0)), constant_values=-1))
            inside = answer is not None and start <= answer[0] and answer[1] < start + room
            labels.append([before + piece - start for piece in answer] if answer and inside else [0, 0])
    arrays = make_arrays(rows, pieces, S=S)
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


# Head and loss


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return lacks_head(settings, encoder, encoder.question_answering_head)


def init(settings: Any, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    assert encoder.question_answering_head is not None
    return encoder.question_answering_head(model, rngs=rngs)


def logits(
    settings: Any,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """[B, S, 2]: index 0 says whether the answer begins at a token, and 1 whether it ends there."""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    return head(hidden_BxSxD, dropout_keys=dropout_keys)


def loss_sums(settings: Any, logits_BxSx2: jax.Array, batch: Batch) -> Sums:
    """loss, in nats, and accuracy: means over beginning and end, each a choice among the tokens."""
    weights = jnp.repeat(batch["weights"], 2)
    is_token_BxSx1 = (batch["segment_ids"] > 0)[:, :, None]
    logits_BxSx2 = jnp.where(is_token_BxSx1, logits_BxSx2, jnp.finfo(jnp.float32).min / 2)
    by_end = logits_BxSx2.swapaxes(1, 2).reshape(-1, logits_BxSx2.shape[1])
    loss, hits = cross_entropy(by_end, batch["labels"].ravel(), weights)
    return {"loss": (loss, weights.sum()), "accuracy": (hits, weights.sum())}


sums = through_logits(logits, loss_sums)


def weights(batch: Batch) -> dict[str, jax.Array]:
    return {"loss": 2 * batch["weights"].sum()}


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    return rows.sequence_length * 2 * 2 * model.hidden_size


# Predictions and scores


def predict(
    examples: Sequence[Question],
    features: Features,
    logits: np.ndarray,
    settings: QuestionAnsweringConfig,
) -> list[dict[str, Any]]:
    """id, answer, start, score, no_answer_score; see `_predict`."""
    assert len(logits) == len(features.examples_N)
    # The rows of an example are neighbours.
    bounds = np.searchsorted(features.examples_N, np.arange(len(examples) + 1))
    windows = [slice(bounds[n], bounds[n + 1]) for n in range(len(examples))]
    return [
        _predict(example, features.places[window], logits[window], settings.longest_answer)
        for example, window in zip(examples, windows, strict=True)
    ]


def _predict(
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


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (Metric("f1", "F1 of words"), Metric("exact_match", "Exact match"))


def check_libraries() -> None:
    """Nothing but NumPy is needed."""


def score(
    examples: Sequence[Question], predictions: Sequence[dict[str, Any]], settings: Any
) -> dict[str, float]:
    """The best score over all people's answers (rajpurkar.github.io/SQuAD-explorer, evaluate-v2.0.py)."""
    assert len(examples) == len(predictions) > 0
    exact, f1 = [], []
    for example, prediction in zip(examples, predictions, strict=True):
        predicted = _normal_words(prediction["answer"])
        answers = [words for answer in example.answers or () if (words := _normal_words(answer.text))]
        exact.append(max(float(words == predicted) for words in answers or [[]]))
        f1.append(max(_overlap(words, predicted) for words in answers or [[]]))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


def _normal_words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _overlap(truth: list[str], predicted: list[str]) -> float:
    """F1 of the words. If there is no answer, or none is given: whether that is right."""
    if not truth or not predicted:
        return float(truth == predicted)
    common = (Counter(truth) & Counter(predicted)).total()
    return 2 * common / (len(truth) + len(predicted))


def explain(
    example: Question,
    features: Features,
    logits: np.ndarray,
    settings: QuestionAnsweringConfig,
    label: str | None,
) -> Target:
    """The answer that is given, or that none is."""
    classification.check_label(label, ())
    (prediction,) = predict([example], features, logits, settings)
    first, last = _columns(prediction, features.places[0])
    answer = prediction["answer"] or "no answer"

    def value(logits: jax.Array) -> jax.Array:
        starts_S, ends_S = jax.nn.log_softmax(logits[0], axis=0).T
        return starts_S[first] + ends_S[last]

    return Target(answer, f"log-probability of {answer}", value)


def _columns(prediction: dict[str, Any], places_Sx2: np.ndarray) -> tuple[int, int]:
    """First and last column of an answer; [CLS] twice where there is none."""
    if not prediction["answer"]:
        return 0, 0
    start, end = prediction["start"], prediction["start"] + len(prediction["answer"])
    inside = np.flatnonzero((places_Sx2[:, 0] >= start) & (places_Sx2[:, 1] <= end))
    return int(inside[0]), int(inside[-1])


# Hugging Face


def to_huggingface(settings: QuestionAnsweringConfig) -> dict[str, Any]:
    return {}


def from_huggingface(suffix: str, fields: dict[str, Any]) -> QuestionAnsweringConfig | None:
    return QuestionAnsweringConfig() if suffix == HUGGINGFACE_SUFFIX else None
