"""Late interaction: a vector for each token, and two texts compared token by token (ColBERT).

Khattab and Zaharia 2020, arXiv 2004.12832. As with embeddings, the texts of an example are the packed
sequences of one row: the anchor, which is the query, its positive, and its negatives.

Shapes in names: B rows of a batch, N rows of all examples, P texts of a row at most, S row length, Q tokens
of an anchor, T = P - 1 texts after it, M tokens of several texts, D size of a vector.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.config import EncoderConfig, LateInteractionConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule, max_segments
from bert_jax.models.layers import Dense
from bert_jax.objectives.objective import Metric, RowShape, Sums, through_logits, weighted
from bert_jax.ops import contrastive, maxsim
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.pooling import normalized
from bert_jax.tasks import embedding, groups, ranking
from bert_jax.tasks.features import Features
from bert_jax.tasks.groups import Texts
from bert_jax.tasks.pieces import Pieces
from bert_jax.tasks.records import Empty
from bert_jax.tasks.task import Target
from data_pipeline.batch import unpack
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

Config = LateInteractionConfig
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "batch"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "Model"

PROJECTION = "linear"
"""The projection's name, in a file of its own (interop/multi_vector.py)."""

RANKED = 256
"""Examples whose texts the positive of each is looked for among: the cost is linear in the examples."""

example = embedding.example
refuses = embedding.refuses
weights = embedding.weights
to_huggingface = embedding.to_huggingface


# Examples


def read(source: str, settings: LateInteractionConfig, *, labelled: bool = True) -> list[Texts | Empty]:
    """Reads .tsv (no quoting: a quote is a character) and .csv with a header line, .jsonl, or TFDS."""
    return groups.read(source, settings, groups.example, labelled=labelled)


def read_stdin(lines: Iterable[bytes], settings: LateInteractionConfig) -> Iterator[Texts | Empty]:
    """An object a line, of two texts."""
    return groups.read_pairs(lines, settings, groups.example)


def featurize(examples: Sequence[Texts], tokenizer: Tokenizer, settings: LateInteractionConfig) -> Features:
    """labels: [N, P] int32, equal for equal texts. scored, with or without labels: [N, S] bool, whether the
    vector of a token counts."""
    pieces = Pieces(tokenizer)
    N, P = len(examples), max(len(example.texts) for example in examples)
    S = settings.query_length + (P - 1) * settings.sequence_length
    rows = _rows(examples, tokenizer, pieces, settings)
    arrays, cut = groups.packed(examples, rows, pad=pieces.pad, columns=S)
    segment_ids = unpack(arrays)["segment_ids"]
    skipped = (segment_ids > 1) & np.isin(arrays["token_ids"], skiplist(tokenizer, settings))
    arrays["scored"] = (segment_ids > 0) & ~skipped
    if examples[0].is_labelled:
        arrays |= {"labels": groups.text_ids(examples), "weights": np.ones(N, np.float32)}
    return Features(arrays, np.arange(N, dtype=np.int32), np.zeros((N, 0), np.int32), cut)


def _rows(
    examples: Sequence[Texts], tokenizer: Tokenizer, pieces: Pieces, settings: LateInteractionConfig
) -> Iterator[tuple[list[int], bool]]:
    """The ids of each text with its special pieces, and whether it was cut."""
    prompts = settings.query_prompt, settings.document_prompt
    lengths = settings.query_length, settings.sequence_length
    markers = [marker(tokenizer, prompt) for prompt in prompts]
    before = [[] if piece is None else [piece] for piece in markers]
    typed = [prompt if piece is None else "" for prompt, piece in zip(prompts, markers, strict=True)]
    kinds = [min(place, 1) for example in examples for place in range(len(example.texts))]
    texts = (text for example in examples for text in example.texts)
    ids = pieces.of_texts([typed[kind] + text for kind, text in zip(kinds, texts, strict=True)])
    for kind, found in zip(kinds, ids, strict=True):
        wanted, room = before[kind] + found, lengths[kind] - pieces.alone.size
        row, _ = pieces.alone.row(wanted[:room], None)
        if kind == 0 and settings.query_expansion:
            row += [tokenizer.special_tokens.mask] * (settings.query_length - len(row))
        yield row, len(wanted) > room


def marker(tokenizer: Tokenizer, prompt: str) -> int | None:
    """The piece that a prompt is as a whole; None if it is a text, or none.

    A word such as `query` is a text, though it may be a piece too.
    """
    return None if prompt.isalnum() else tokenizer.ids.get(prompt)


def skiplist(tokenizer: Tokenizer, settings: LateInteractionConfig) -> list[int]:
    """Pieces that have no vectors, but in anchors."""
    words = string.punctuation if settings.skip_punctuation else ""
    return [tokenizer.ids[word] for word in words if word in tokenizer.ids]


def with_labels(settings: LateInteractionConfig, examples: Sequence[Texts]) -> LateInteractionConfig:
    """As that of embeddings."""
    groups.check_compares(settings.train, examples)
    return settings


# Vectors and loss


class Projection(nnx.Module):
    """[..., hidden_size] -> [..., D] float32, of length 1."""

    def __init__(self, model: EncoderConfig, *, dimensions: int, rngs: nnx.Rngs):
        self.linear = Dense(
            (model.hidden_size, dimensions),
            ("embed", "labels"),
            stddev=model.initializer_range,
            huggingface=PROJECTION,
            depth=model.num_hidden_layers + 1,
            rngs=rngs,
            bias=False,
        )

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return normalized(self.linear(hidden).astype(jnp.float32))


def init(
    settings: LateInteractionConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs
) -> nnx.Module:
    if settings.query_length > model.longest:
        raise UserError(
            f"task.query_length is {settings.query_length}, but init.source has {model.longest} positions: "
            f"give --task.query-length {model.longest}"
        )
    return Projection(model, dimensions=settings.dimensions, rngs=rngs)


def logits(
    settings: LateInteractionConfig,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """[B, S, D]: the vectors of a row's tokens."""
    return head(encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys))


def loss_sums(settings: LateInteractionConfig, logits_BxSxD: jax.Array, batch: Batch) -> Sums:
    """loss; and accuracy: how often the positive has the highest score."""
    weights_B = batch["weights"]
    found = contrastive.in_batch(
        _scores(settings, logits_BxSxD, batch), batch["labels"], weights_B, temperature=settings.temperature
    )
    of_rows = {"loss": found.nll_B, "accuracy": found.hit_B}
    return weighted(of_rows, weights_B)


sums = through_logits(logits, loss_sums)


def _scores(settings: LateInteractionConfig, vectors_BxSxD: jax.Array, batch: Batch) -> jax.Array:
    """[B, B, T]: of each anchor and each text of each row."""
    Q = settings.query_length  # an anchor is the first of its row
    owners_BxS = jnp.where(batch["scored"], batch["segment_ids"], 0) - 2
    return maxsim.scores(
        vectors_BxSxD[:, :Q], owners_BxS[:, :Q] == -1, vectors_BxSxD, owners_BxS, T=max_segments(batch) - 1
    )


def flops(settings: LateInteractionConfig, model: EncoderConfig, rows: RowShape) -> float:
    """Those of the projection: the scores are of the batch, not of a row."""
    return 2.0 * rows.sequence_length * model.hidden_size * settings.dimensions


def kept_bytes(
    settings: LateInteractionConfig, model: EncoderConfig, rows: RowShape, *, tensor: int = 1
) -> float:
    """The vectors, before they have length 1 and after."""
    return rows.sequence_length * settings.dimensions * 8


# Predictions and scores


def predict(
    examples: Sequence[Texts], features: Features, logits: np.ndarray, settings: LateInteractionConfig
) -> list[dict[str, Any]]:
    """score, of the pair; of examples with labels, scores and the rank of the positive."""
    assert len(logits) == len(features.examples_N)
    owners_NxS = _owners(features)
    texts = [
        [logits[n, owners_NxS[n] == p] for p in range(len(example.texts))]
        for n, example in enumerate(examples)
    ]
    own = [_maxsim([anchor], others)[0] for anchor, *others in texts]
    if "labels" not in features.arrays:
        return [{"score": float(scores[0])} for scores in own]
    ranks = np.concatenate(
        [
            _ranks(examples[first : first + RANKED], texts[first : first + RANKED])
            for first in range(0, len(examples), RANKED)
        ]
    )
    return [{"scores": scores.tolist(), "rank": int(rank)} for scores, rank in zip(own, ranks, strict=True)]


def _owners(features: Features) -> np.ndarray:
    """[N, S]: the text of its example, from 0 on, that each token is of; -1 if its vector does not count."""
    batch = unpack(features.arrays)
    return np.where(batch["scored"], batch["segment_ids"], 0) - 1


def _maxsim(queries: Sequence[np.ndarray], texts: Sequence[np.ndarray]) -> np.ndarray:
    """[queries, texts], of the vectors of each one's tokens."""
    sizes = np.array([len(tokens) for tokens in texts], np.int64)
    starts, tokens_MxD = np.cumsum(sizes) - sizes, np.concatenate(texts)
    return np.stack(
        [np.maximum.reduceat(query_QxD @ tokens_MxD.T, starts, axis=1).sum(axis=0) for query_QxD in queries]
    )


def _ranks(examples: Sequence[Texts], vectors: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """The rank of each example's positive among the texts of all of them."""
    queries = [anchor for anchor, *_ in vectors]
    texts = [text for _, *others in vectors for text in others]
    return ranking.ranks(
        lambda rows, columns: _maxsim(queries[rows], [texts[column] for column in columns]),
        anchors=[example.texts[0] for example in examples],
        texts=[text for example in examples for text in example.texts[1:]],
        positives=[example.texts[1] for example in examples],
    )


def metrics(settings: LateInteractionConfig) -> tuple[Metric, ...]:
    return (
        Metric("mrr", f"Mean reciprocal rank of the positive among the texts of {RANKED} examples"),
        Metric(
            "accuracy", f"Share of anchors whose positive is the first among the texts of {RANKED} examples"
        ),
    )


def check_libraries() -> None:
    """None but NumPy."""


def score(
    examples: Sequence[Texts], predictions: Sequence[dict[str, Any]], settings: LateInteractionConfig
) -> dict[str, float]:
    """By the ranks of positives among all positives and negatives of RANKED examples."""
    assert len(examples) == len(predictions) > 0
    ranks_N = np.array([prediction["rank"] for prediction in predictions])
    return {"mrr": float((1 / ranks_N).mean()), "accuracy": float((ranks_N == 1).mean())}


def explain(
    example: Texts, features: Features, logits: np.ndarray, settings: LateInteractionConfig, label: str | None
) -> Target:
    if label is not None:
        raise UserError(f"there is no label {label!r}: the model scores pairs")
    # Which tokens match is kept as it is for the text: it would jump on the way from the empty one.
    owners_S = _owners(features)[0]
    query_Q, text_M = (np.flatnonzero(owners_S == place) for place in range(2))
    matches_Q = text_M[(logits[0, query_Q] @ logits[0, text_M].T).argmax(axis=1)]

    def value(logits: jax.Array) -> jax.Array:
        return (logits[0, query_Q] * logits[0, matches_Q]).sum()

    score = float(value(jnp.asarray(logits)))
    return Target(f"a score of {score:.4f}", "the score, by the tokens that match", value)


# Hugging Face


def from_huggingface(suffix: str, fields: dict[str, Any]) -> LateInteractionConfig | None:
    """None: what an encoder without a head is for is not in config.json, but in files of its own."""
    return None
