"""Configuration of the data: what to read, how to cut it, how to mask it. Standard library only.

Every default lives here. A value that cannot work raises UserError and names its field.
"""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_pipeline.errors import UserError, require


def read_object(path: Path) -> dict[str, Any]:
    """The settings that a JSON file holds. Raises UserError, with its name, if it holds none."""
    return parse_object(path.read_bytes(), str(path))


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """The same of a file's content."""
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    require(isinstance(found, dict), f"{where} is not an object of JSON")
    return found


class Section:
    """A part of a config. Refuses values of another type than its fields have."""

    path: ClassVar[str]
    """Name of the section in the config, for messages."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            if typing.get_origin(hint) is not ClassVar:
                value = getattr(self, name)
                require(_fits(hint, value), f"{self.path}.{name} is {value!r}; it must be {_described(hint)}")


def _fits(hint: Any, value: Any) -> bool:
    if typing.get_origin(hint) is tuple:  # of any length, of one type
        return isinstance(value, tuple) and all(_fits(typing.get_args(hint)[0], item) for item in value)
    match typing.get_origin(hint):
        case typing.Literal:
            return value in typing.get_args(hint)
        case types.UnionType:
            return any(_fits(option, value) for option in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a tuple of values {_described(typing.get_args(hint)[0])}"
    match typing.get_origin(hint):
        case typing.Literal:
            return "one of " + ", ".join(map(repr, typing.get_args(hint)))
        case types.UnionType:
            return " or ".join(_described(option) for option in typing.get_args(hint))
    if hint is float:
        return "a finite number"
    return "None" if hint is type(None) else f"of type {hint.__name__}"


@dataclass(frozen=True)
class TokenizerConfig(Section):
    """A subword vocabulary: trained on the corpus, or read from a file."""

    path: ClassVar[str] = "data.tokenizer"

    kind: Literal["unigram", "bpe", "wordpiece", "byte_bpe"] = "unigram"
    """unigram and bpe are SentencePiece models; wordpiece is BERT's own; byte_bpe is byte-level BPE, as
    RoBERTa and ModernBERT have it."""
    vocab_size: int = 30522
    """Pieces to train, special ones included. A small corpus may give fewer."""
    vocab_file: str | None = None
    """A tokenizer to use in place of training one: any tokenizer.json of Hugging Face, with the files beside
    it, which alone then says what is done (not kind, vocab_size and lowercase); a vocab.txt (wordpiece); a
    SentencePiece model (unigram, bpe)."""
    lowercase: bool = True
    added_tokens: tuple[str, ...] = ()
    """Pieces that `vocab_file` gets in addition, whole words or ##continued: in its unused slots, then behind
    its last one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.vocab_size > 5,
            f"data.tokenizer.vocab_size is {self.vocab_size}; it must be greater than 5, "
            "the number of special pieces",
        )
        require(
            not self.added_tokens or self.vocab_file is not None,
            "data.tokenizer.added_tokens are for a tokenizer that is there already: give "
            "data.tokenizer.vocab_file too",
        )
        require(
            all(piece.split() == [piece] for piece in self.added_tokens)
            and len({*self.added_tokens}) == len(self.added_tokens),
            f"data.tokenizer.added_tokens is {self.added_tokens}; each must be a word, and none twice",
        )


@dataclass(frozen=True)
class MaskingConfig(Section):
    """Dynamic masking, applied as batches are read (Devlin et al. 2018, section 3.1).

    For training. Validation has its own, `evaluation_masking`.
    """

    path: ClassVar[str] = "data.masking"

    strategy: Literal["token", "whole_word", "span"] = "token"
    """What is chosen: tokens, whole words (BERT's later models), or spans of whole words (SpanBERT)."""
    rate: float = 0.15
    """Share of a row's tokens to predict; with a `final_rate`, at step 0."""
    final_rate: float | None = None
    """The rate moves to this one in `rate_steps` steps, linearly, and stays there."""
    rate_steps: int = 0
    max_predictions: int = 20
    """K: predictions a row at most. The batch has this many slots a row, used or not."""
    mask_fraction: float = 0.8
    """Share of the chosen tokens replaced by [MASK]."""
    random_fraction: float = 0.1
    """Share of the chosen tokens replaced by a random token; the rest stay as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.rate < 1, f"data.masking.rate is {self.rate}; it must be between 0 and 1")
        require(
            self.final_rate is None or 0 < self.final_rate < 1,
            f"data.masking.final_rate is {self.final_rate}; it must be between 0 and 1, or None",
        )
        if self.final_rate is None:
            require(
                self.rate_steps == 0,
                f"data.masking.rate_steps is {self.rate_steps}; without data.masking.final_rate there is no "
                "other rate to go to: set that too, or leave both out",
            )
        else:
            require(
                self.rate_steps >= 1,
                f"data.masking.rate_steps is {self.rate_steps}; with data.masking.final_rate it must be at "
                "least 1, the steps to get there",
            )
        require(
            self.max_predictions >= 1,
            f"data.masking.max_predictions is {self.max_predictions}; it must be at least 1",
        )
        for name in ("mask_fraction", "random_fraction"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.masking.{name} is {value}; it must be between 0 and 1")
        require(
            self.mask_fraction + self.random_fraction <= 1 + 1e-9,
            f"data.masking.mask_fraction + data.masking.random_fraction is "
            f"{self.mask_fraction + self.random_fraction}; together they must not pass 1",
        )

    @property
    def highest_rate(self) -> float:
        return max(self.rate, self.final_rate or 0)


def evaluation_masking(sequence_length: int) -> MaskingConfig:
    """As in BERT's paper, whatever training does: validation losses of all runs can be compared."""
    return MaskingConfig(
        strategy="token",
        rate=0.15,
        max_predictions=max(1, round(0.15 * sequence_length)),
        mask_fraction=0.8,
        random_fraction=0.1,
    )


@dataclass(frozen=True)
class DataConfig(Section):
    """From a corpus to rows of S tokens."""

    path: ClassVar[str] = "data"

    source: str | tuple[str, ...] = "builtin:python-docs"
    """files:GLOB (.txt or .jsonl, also .gz, .bz2, .xz or .zst; .parquet), tfds:NAME[:SPLIT[:FEATURE]], or
    builtin:python-docs; several of them are prepared side by side."""
    text_field: str = "text"
    """The field of a .jsonl, or the column of a .parquet, that holds the text."""
    weights: tuple[float, ...] = ()
    """Share of each source in the training batches, relative to each other; empty: as it has rows."""
    dir: str = "runs/data"
    """The prepared dataset: `bert-jax prepare` writes it, everything else reads it."""
    sequence_length: int = 128
    """S: tokens in a row."""
    input_format: Literal["next_sentence", "sentence_order", "full_sentences", "documents"] = "next_sentence"
    """Pairs with a label: next_sentence (BERT), sentence_order (ALBERT). Single texts without one:
    full_sentences (RoBERTa: up to S tokens, across documents), documents (never across). See Liu et al.
    2019, section 4.2."""
    short_sequence_probability: float = 0.1
    """Share of documents cut into pairs of random shorter length (next_sentence, sentence_order)."""
    max_sequences_per_row: int = 1
    """P: sequences packed into a row at most. 1 is BERT's one sequence a row."""
    validation_fraction: float = 0.05
    """Share of the documents held out from the tokenizer and from training."""
    seed: int = 0
    """Decides the pairs and the validation split. Order and masks of training come from train.seed."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(set(self.sources)) == len(self.sources) > 0, "data.source is empty or has a source twice")
        require(
            len(self.weights) in (0, len(self.sources)),
            f"data.weights has {len(self.weights)} value(s) for {len(self.sources)} data.source",
        )
        require(
            all(weight >= 0 for weight in self.weights) and (not self.weights or sum(self.weights) > 0),
            f"data.weights is {self.weights}; none may be negative, and one must be positive",
        )
        require(0 <= self.seed < 2**63, f"data.seed is {self.seed}; it must be at least 0")
        require(
            self.sequence_length >= 8,
            f"data.sequence_length is {self.sequence_length}; it must be at least 8",
        )
        require(
            self.masking.max_predictions <= self.sequence_length,
            f"data.masking.max_predictions is {self.masking.max_predictions}, more than "
            f"data.sequence_length {self.sequence_length}",
        )
        highest = self.masking.highest_rate
        name = "rate" if highest == self.masking.rate else "final_rate"
        wanted = round(highest * self.sequence_length)
        require(
            self.masking.max_predictions >= wanted,
            f"data.masking.max_predictions is {self.masking.max_predictions}, too few for data.masking."
            f"{name} {highest} of data.sequence_length {self.sequence_length}: set it to {wanted} or more",
        )
        require(
            1 <= self.max_sequences_per_row <= self.sequence_length // 4,
            f"data.max_sequences_per_row is {self.max_sequences_per_row}; it must be between 1 and a quarter "
            f"of data.sequence_length ({self.sequence_length // 4})",
        )
        for name in ("short_sequence_probability", "validation_fraction"):
            value = getattr(self, name)
            require(0 <= value < 1, f"data.{name} is {value}; it must be at least 0 and less than 1")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def has_pairs(self) -> bool:
        """Whether sequences are sentence pairs, with a label to predict."""
        return self.input_format in ("next_sentence", "sentence_order")

    def masking_of(self, split: str) -> MaskingConfig:
        """How the rows of a split are masked."""
        return self.masking if split == "train" else evaluation_masking(self.sequence_length)
