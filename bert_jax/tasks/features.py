"""Rows of token ids as tasks have them: `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, or as the tokenizer
puts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from bert_jax.objectives.objective import RowShape
from bert_jax.tasks.pieces import Pieces
from data_pipeline.errors import UserError, require


class Located(Protocol):
    """An example, which knows where it is from."""

    @property
    def where(self) -> str:
        """`file.tsv row 7`, for messages. Rows count from 1, the header is none."""


class Features(NamedTuple):
    """N rows of S columns. Usually a row is an example; a long context is several rows."""

    arrays: dict[str, np.ndarray]
    """token_ids and segment_lengths as in a batch (data_pipeline/batch.py); and where the examples have
    labels, `labels` and float32 `weights`, as the task has them (0.0 is not to be learned)."""
    examples_N: np.ndarray
    """int32: the example that a row is of."""
    places: np.ndarray
    """int32, from columns to what the example is made of, as the task has it; [N, 0] if it needs none."""
    cut: list[str]
    """`where` of each text, sentence or question that lost its end; a context loses nothing."""
    texts_may_move: bool = False
    """Whether each text may lie in any row of its batch, where `text_places` says then, [B, P], which of all
    places: P in each row."""

    @property
    def shape(self) -> RowShape:
        lengths = self.arrays["segment_lengths"]
        return RowShape(self.arrays["token_ids"].shape[1], max_sequences=lengths.shape[1])


def make_arrays(
    rows: Sequence[tuple[list[int], list[int] | None]], pieces: Pieces, *, S: int
) -> dict[str, np.ndarray]:
    """The arrays of rows of one or two texts, given as ids without special pieces."""
    token_ids, lengths = np.full((len(rows), S), pieces.pad, np.int32), np.zeros((len(rows), 1, 2), np.int32)
    for n, (first, second) in enumerate(rows):
        frame = pieces.alone if second is None else pieces.paired
        ids, lengths[n, 0] = frame.row(first, second)
        token_ids[n, : len(ids)] = ids
    return {"token_ids": token_ids, "segment_lengths": lengths}


def all_labelled(examples: Sequence[Located], labels: Sequence[object]) -> bool:
    """Whether all examples have a label. Either all or none must: they are learned or scored together."""
    without = [example for example, label in zip(examples, labels, strict=True) if label is None]
    require(
        len(without) in (0, len(examples)),
        f"{without[0].where} has no label, and other examples have" if without else "",
    )
    return not without


def label_index(example: Located, label: object, labels: Sequence[str]) -> int:
    """The place of a label among `labels`; UserError if it is not there."""
    if label not in labels:
        raise UserError(f"{example.where} has the label {label!r}; known are {', '.join(map(repr, labels))}")
    return labels.index(label)
