"""Token classification: a label for each word, such as entities (Devlin et al. 2018, section 5.3).

Shapes in names: B rows of a batch, N rows of all examples, S row length, C labels.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config import EncoderConfig, TokenClassificationConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.cross_entropy import cross_entropy
from bert_jax.tasks import classification, columns, conll, records
from bert_jax.tasks.entities import iobes, scheme_of
from bert_jax.tasks.features import Features, all_labelled, label_index, make_arrays
from bert_jax.tasks.pieces import Pieces
from bert_jax.tasks.records import Empty
from bert_jax.tasks.requirements import check_installed
from bert_jax.tasks.task import Target, lacks_head
from data_pipeline.config import DataConfig
from data_pipeline.corpus import sanitize
from data_pipeline.errors import EmptyError, UserError
from data_pipeline.tokenizer import Tokenizer

Config = TokenClassificationConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForTokenClassification"

weights = classification.weights
kept_bytes = classification.kept_bytes


@dataclass(frozen=True)
class TokenLabels:
    """A sentence, and the labels of its words."""

    where: str
    words: tuple[str, ...]
    labels: tuple[str | None, ...] | None = None
    """A None among them: the word is neither learned nor scored. None: unknown, they are to be predicted."""


NO_LABEL = "-100"
"""What Hugging Face has in place of the label of a word that is not to be learned."""


# Examples


def read(
    source: str, settings: TokenClassificationConfig, *, labelled: bool = True
) -> list[TokenLabels | Empty]:
    """Reads .conll, .conllu, .jsonl with lists of words and of labels, or TFDS; to predict, words may be a
    string."""
    read_conll = functools.partial(conll.read, settings=settings, labelled=labelled)
    formats: dict[str, records.Format] = {
        ".conll": read_conll,
        ".conllu": read_conll,
        ".jsonl": records.json_lines,
    }
    label = settings.label if labelled else None
    wanted = (settings.text, settings.label)
    found = records.read(source, formats, kind=settings.kind, columns=wanted, label=label)
    as_label = _label_reader(settings.labels) if labelled else None
    make = functools.partial(_example, settings=settings, as_label=as_label)
    return list(records.examples(found, make, labelled=labelled))


def read_stdin(lines: Iterable[bytes], settings: TokenClassificationConfig) -> Iterator[TokenLabels | Empty]:
    """Words with spaces between them, a sentence a line."""
    text = records.decoded(lines, records.STDIN)
    found = records.texts(records.STDIN, text, settings.text)
    make = functools.partial(_example, settings=settings, as_label=None)
    return records.examples(found, make, labelled=False)


def example(text: str, pair: str | None, settings: TokenClassificationConfig) -> TokenLabels:
    if pair is not None:
        raise UserError("the model labels the words of one text: leave --pair out")
    return TokenLabels("the text", tuple(text.split()))


def _example(
    where: str,
    record: dict[str, Any],
    *,
    settings: TokenClassificationConfig,
    as_label: Callable[[str, str, Any], str | None] | None,
) -> TokenLabels:
    labelled = as_label is not None
    advice = columns.advice("text", labelled=labelled)
    value = columns.column(where, record, settings.text, advice)
    if value is None:
        raise EmptyError(f"{where}: {settings.text!r} has no words")
    if isinstance(value, str) and not labelled:
        value = sanitize(value).split()
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UserError(f"{where}: {settings.text!r} is not a list of words")
    words = tuple(map(sanitize, value))
    if not words:
        raise EmptyError(f"{where}: {settings.text!r} has no words")
    if not all(word.strip() for word in words):
        raise UserError(f"{where}: {settings.text!r} has an empty word")
    if as_label is None:
        return TokenLabels(where, words)
    labels = columns.column(where, record, settings.label, columns.advice("label", labelled=labelled))
    if not isinstance(labels, list):
        raise UserError(f"{where}: {settings.label!r} is not a list of labels")
    if len(labels) != len(words):
        raise UserError(f"{where} has {len(words)} words and {len(labels)} labels")
    found = tuple(as_label(where, settings.label, label) for label in labels)
    if not any(found):
        raise UserError(f"{where}: {settings.label!r} is {NO_LABEL}, no label, for all words: leave them out")
    return TokenLabels(where, words, found)


def _label_reader(labels: Sequence[str]) -> Callable[[str, str, Any], str | None]:
    """As that of `columns`; but a number wants labels that it counts, or is NO_LABEL."""
    read = columns.label_reader(labels)

    def read_one(where: str, name: str, value: Any) -> str | None:
        label = columns.label_name(where, name, value)
        if label == NO_LABEL:
            return None
        if columns.is_number(label) and not labels:  # which one is outside of entities?
            raise UserError(
                f"{where}: {name!r} has {label}, a number, not a name: name the labels in their order, "
                "as in --task.labels O B-PER I-PER"
            )
        return read(where, name, label)

    return read_one


def with_labels(
    settings: TokenClassificationConfig, examples: Sequence[TokenLabels]
) -> TokenClassificationConfig:
    """`settings` with the labels of the examples, sorted, unless others were asked for."""
    found = {label for example in examples for label in example.labels or () if label is not None}
    asked = tuple(map(columns.canonical, settings.labels))
    return dataclasses.replace(settings, labels=asked or tuple(sorted(found)))


def featurize(
    examples: Sequence[TokenLabels], tokenizer: Tokenizer, settings: TokenClassificationConfig
) -> Features:
    """labels: [N, S] int32, index in the labels at the first piece of each word that has one; weights:
    [N, S], 1.0 there; places: [N, S], the word of which a column has the first piece, else -1."""
    S, pieces = settings.sequence_length, Pieces(tokenizer)
    before, room = len(pieces.alone.before), S - pieces.alone.size
    rows: list[tuple[list[int], list[int] | None]] = []
    cut = []
    words_NxS = np.full((len(examples), S), -1, np.int32)
    encoded = pieces.of_words([list(example.words) for example in examples])
    for n, (example, by_word) in enumerate(zip(examples, encoded, strict=True)):
        rows.append(([i for word in by_word for i in word][:room], None))
        first_columns = before + np.cumsum([0, *map(len, by_word)])
        inside = np.flatnonzero(first_columns[:-1] < before + room)
        words_NxS[n, first_columns[inside]] = inside
        if first_columns[-1] > before + room:
            cut.append(example.where)
    arrays = make_arrays(rows, pieces, S=S)
    if all_labelled(examples, [example.labels for example in examples]):
        arrays["labels"] = np.zeros((len(rows), S), np.int32)
        arrays["weights"] = np.zeros((len(rows), S), np.float32)
        for n, example in enumerate(examples):
            assert example.labels is not None
            assert len(example.labels) == len(example.words), example.where
            known = [
                -1 if label is None else label_index(example, label, settings.labels)
                for label in example.labels
            ]
            at = np.flatnonzero(words_NxS[n] >= 0)
            of_words = np.array(known, np.int32)[words_NxS[n, at]]
            arrays["labels"][n, at] = of_words.clip(min=0)
            arrays["weights"][n, at] = of_words >= 0
    return Features(arrays, np.arange(len(rows), dtype=np.int32), words_NxS, cut)


# Head and loss


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    return lacks_head(settings, encoder, encoder.token_classification_head)


def init(
    settings: TokenClassificationConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs
) -> nnx.Module:
    assert encoder.token_classification_head is not None
    return encoder.token_classification_head(model, num_labels=len(settings.labels), rngs=rngs)


def logits(
    settings: Any,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """[B, S, C]"""
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    return head(hidden_BxSxD, dropout_keys=dropout_keys)


def loss_sums(settings: Any, logits_BxSxC: jax.Array, batch: Batch) -> Sums:
    """loss, in nats, and accuracy, both of words."""
    weights = batch["weights"].ravel()
    by_word = logits_BxSxC.reshape(-1, logits_BxSxC.shape[-1])
    loss, hits = cross_entropy(by_word, batch["labels"].ravel(), weights)
    return {"loss": (loss, weights.sum()), "accuracy": (hits, weights.sum())}


sums = through_logits(logits, loss_sums)


def flops(settings: TokenClassificationConfig, model: EncoderConfig, rows: RowShape) -> float:
    return rows.sequence_length * 2 * len(settings.labels) * model.hidden_size


# Predictions and scores


def predict(
    examples: Sequence[TokenLabels],
    features: Features,
    logits: np.ndarray,
    settings: TokenClassificationConfig,
) -> list[dict[str, Any]]:
    """words, and labels: None for a word that did not fit in the row."""
    assert len(logits) == len(features.examples_N)
    predictions = []
    for example, words_S, best_S in zip(examples, features.places, logits.argmax(axis=-1), strict=True):
        labels: list[str | None] = [None] * len(example.words)
        for word, best in zip(words_S.tolist(), best_S.tolist(), strict=True):
            if word >= 0:
                labels[word] = settings.labels[best]
        predictions.append({"words": list(example.words), "labels": labels})
    return predictions


def metrics(settings: TokenClassificationConfig) -> tuple[Metric, ...]:
    """Those of entities, if the labels say where entities begin; else those of a class for each word."""
    accuracy = Metric("accuracy", "Accuracy on words")
    if scheme_of(settings.labels) is None:
        return (accuracy, Metric("macro_f1", "Macro F1 of words"))
    return (
        Metric("f1", "F1 of entities"),
        Metric("precision", "Precision of entities"),
        Metric("recall", "Recall of entities"),
        accuracy,
    )


def check_libraries() -> None:
    check_installed("sklearn")
    check_installed("seqeval")


def score(
    examples: Sequence[TokenLabels],
    predictions: Sequence[dict[str, Any]],
    settings: TokenClassificationConfig,
) -> dict[str, float]:
    """Entities as conlleval counts them, by seqeval; or words alone, by scikit-learn.

    Of entities, a word without a prediction counts as "O", and a label without a prefix is of one word.
    """
    check_libraries()
    assert len(examples) == len(predictions) > 0
    truth, predicted = [], []
    for example, prediction in zip(examples, predictions, strict=True):
        pairs = zip(example.labels or (), prediction["labels"], strict=True)
        scored = [(label, said) for label, said in pairs if label is not None]
        truth.append([label for label, _ in scored])
        predicted.append([said for _, said in scored])
    scheme = scheme_of(settings.labels)
    if scheme is None:
        return _scores_of_words(truth, predicted)
    from seqeval import metrics

    predicted = [["O" if label is None else label for label in labels] for labels in predicted]
    accuracy = float(metrics.accuracy_score(truth, predicted))
    truth = [[iobes(label, scheme) for label in sentence] for sentence in truth]
    predicted = [[iobes(label, scheme) for label in sentence] for sentence in predicted]
    return {
        "precision": float(metrics.precision_score(truth, predicted, zero_division=0)),
        "recall": float(metrics.recall_score(truth, predicted, zero_division=0)),
        "f1": float(metrics.f1_score(truth, predicted, zero_division=0)),
        "accuracy": accuracy,
    }


def _scores_of_words(truth: list[list[str]], predicted: list[list[str | None]]) -> dict[str, float]:
    """A word without a prediction is a miss. Macro F1 is the mean over all labels that occur."""
    from sklearn import metrics

    true = list(itertools.chain(*truth))
    said = ["" if label is None else label for label in itertools.chain(*predicted)]
    labels = sorted({*true, *said} - {""})
    return {
        "accuracy": float(metrics.accuracy_score(true, said)),
        "macro_f1": float(metrics.f1_score(true, said, labels=labels, average="macro", zero_division=0)),
    }


def explain(
    example: TokenLabels,
    features: Features,
    logits: np.ndarray,
    settings: TokenClassificationConfig,
    label: str | None,
) -> Target:
    """The word that has a label most surely, of those that are no O if there are any."""
    (prediction,) = predict([example], features, logits, settings)
    classification.check_label(label, settings.labels)
    labels, words_S = settings.labels, features.places[0]
    at = np.flatnonzero(words_S >= 0)
    asked = [label] if label else [name for name in labels if name != "O"] or list(labels)
    wanted = [labels.index(name) for name in asked]
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits[0]), axis=-1))[at][:, wanted]
    row, place = np.unravel_index(int(log_probs.argmax()), log_probs.shape)
    column, index = int(at[row]), wanted[int(place)]
    word = prediction["words"][words_S[column]]
    return Target(
        " ".join(f"{w}/{tag}" for w, tag in zip(prediction["words"], prediction["labels"], strict=True)),
        f"log-probability of {labels[index]} for {word}",
        lambda logits: jax.nn.log_softmax(logits[0, column])[index],
    )


# Hugging Face


def to_huggingface(settings: TokenClassificationConfig) -> dict[str, Any]:
    return classification.label_fields(settings.labels)


def from_huggingface(suffix: str, fields: dict[str, Any]) -> TokenClassificationConfig | None:
    if suffix != HUGGINGFACE_SUFFIX:
        return None
    return TokenClassificationConfig(labels=classification.labels_of(fields))
