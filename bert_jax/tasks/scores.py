"""Predictions against labels: the usual scores of each kind of task, all from 0 to 1 except correlations.

Entities are counted by seqeval, labels by scikit-learn, and answers as SQuAD 2.0's own script does.
"""

from __future__ import annotations

import importlib.util
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from bert_jax.tasks.examples import Example, Question, Text, Words
from data_pipeline.config import Head
from data_pipeline.errors import UserError

LIBRARIES: dict[Head, str] = {"classification": "sklearn", "regression": "scipy", "tokens": "seqeval"}


def check_libraries(head: Head) -> None:
    """Raises UserError if what scores such a task is not installed: before a training rather than in it."""
    name = LIBRARIES.get(head)
    if name is not None and importlib.util.find_spec(name) is None:
        raise _missing(ImportError(f"No module named {name!r}"))


def names(head: Head, labels: Sequence[str]) -> tuple[str, ...]:
    """Of the scores of a task. By the first one checkpoints are compared, unless another is asked for."""
    match head:
        case "classification":
            return ("accuracy", *(["f1"] if len(labels) == 2 else []), "macro_f1", "mcc")
        case "regression":
            return ("pearson", "spearman", "mse")
        case "tokens":
            return ("f1", "precision", "recall", "accuracy")
        case "qa":
            return ("f1", "exact_match")


def score(
    head: Head,
    examples: Sequence[Example],
    predictions: Sequence[dict[str, Any]],
    *,
    labels: Sequence[str],
) -> dict[str, float]:
    """Scores of what `predict` said of examples with labels; more is better, but of mse.

    classification  accuracy, macro_f1 (the mean over all labels that occur), mcc (Matthews' correlation);
                    of two labels also f1, of the second: 1 of 0 and 1
    regression      pearson, spearman, mse
    tokens          precision, recall, f1 (of whole entities), accuracy (of words)
    qa              exact_match, f1 (of words)

    Args:
      labels: all that the model knows, whether they occur or not.

    Raises:
      UserError: scikit-learn or seqeval is not installed.
    """
    assert len(examples) == len(predictions) > 0
    match head:
        case "classification":
            return _classification(cast(Sequence[Text], examples), predictions, labels)
        case "regression":
            return _regression(cast(Sequence[Text], examples), predictions)
        case "tokens":
            return _tokens(cast(Sequence[Words], examples), predictions, labels)
        case "qa":
            return _qa(cast(Sequence[Question], examples), predictions)


def _missing(error: ImportError) -> UserError:
    return UserError(f"scoring needs scikit-learn and seqeval: pip install 'bert-jax[finetune]' ({error})")


def _classification(
    examples: Sequence[Text], predictions: Sequence[dict[str, Any]], labels: Sequence[str]
) -> dict[str, float]:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise _missing(error) from error
    truth = [example.label for example in examples]
    said = [prediction["label"] for prediction in predictions]
    # Of one label only, a correlation is not defined: 0.0, as scikit-learn says with a warning.
    one = len({*truth, *said}) == 1
    of_second = {}
    if len(labels) == 2:
        found = metrics.f1_score(truth, said, labels=[labels[1]], average="macro", zero_division=0)
        of_second["f1"] = float(found)
    return {
        "accuracy": float(metrics.accuracy_score(truth, said)),
        **of_second,
        "macro_f1": float(metrics.f1_score(truth, said, average="macro", zero_division=0)),
        "mcc": 0.0 if one else float(metrics.matthews_corrcoef(truth, said)),
    }


def _regression(examples: Sequence[Text], predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    try:
        from scipy import stats
    except ImportError as error:
        raise _missing(error) from error
    truth = np.array([example.label for example in examples], np.float64)
    said = np.array([prediction["score"] for prediction in predictions], np.float64)

    def correlation(statistic: Callable[..., Any]) -> float:
        # Not defined where nothing varies. A model that says the same of every text has learned nothing:
        # 0.0 ranks it below any that has, and NaN would not compare.
        if np.ptp(truth) == 0 or np.ptp(said) == 0:
            return 0.0
        return float(statistic(truth, said).statistic)

    return {
        "pearson": correlation(stats.pearsonr),
        "spearman": correlation(stats.spearmanr),
        "mse": float(np.mean((truth - said) ** 2)),
    }


SCHEMES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S"}
"""With what the labels of IOB1, IOB2, IOE, IOBES and BILOU begin, and what that is in IOBES."""


def _tokens(
    examples: Sequence[Words], predictions: Sequence[dict[str, Any]], labels: Sequence[str]
) -> dict[str, float]:
    """Entities as conlleval counts them.

    A word without a prediction counts as "O". Labels such as NOUN, which do not say where an entity begins,
    are of one word each. So are letters alone, unless all labels are those of a scheme without types.
    """
    try:
        from seqeval import metrics
    except ImportError as error:
        raise _missing(error) from error
    truth = [list(example.labels or ()) for example in examples]
    said = [["O" if label is None else label for label in p["labels"]] for p in predictions]
    accuracy = float(metrics.accuracy_score(truth, said))
    typed = not set(labels) <= {"O", *SCHEMES}
    truth = [[_iobes(label, typed) for label in sentence] for sentence in truth]
    said = [[_iobes(label, typed) for label in sentence] for sentence in said]
    return {
        "precision": float(metrics.precision_score(truth, said, zero_division=0)),
        "recall": float(metrics.recall_score(truth, said, zero_division=0)),
        "f1": float(metrics.f1_score(truth, said, zero_division=0)),
        "accuracy": accuracy,
    }


def _iobes(label: str, typed: bool) -> str:
    letter, dash, kind = label.partition("-")
    if label == "O":
        return label
    if letter in SCHEMES and (dash or not typed):
        return SCHEMES[letter] + dash + kind
    return f"S-{label}"


def _qa(examples: Sequence[Question], predictions: Sequence[dict[str, Any]]) -> dict[str, float]:
    """As rajpurkar.github.io/SQuAD-explorer's evaluate-v2.0.py: the best over all people's answers."""
    exact, f1 = [], []
    for example, prediction in zip(examples, predictions, strict=True):
        said = _normal_words(prediction["answer"])
        answers = [words for answer in example.answers or () if (words := _normal_words(answer.text))]
        exact.append(max(float(words == said) for words in answers or [[]]))
        f1.append(max(_overlap(words, said) for words in answers or [[]]))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(f1))}


def _normal_words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _overlap(truth: list[str], said: list[str]) -> float:
    """F1 of the words. If there is no answer, or none is given: whether that is right."""
    if not truth or not said:
        return float(truth == said)
    common = (Counter(truth) & Counter(said)).total()
    return 2 * common / (len(truth) + len(said))
