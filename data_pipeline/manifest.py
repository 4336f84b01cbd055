"""The manifest of a prepared dataset: what is in it, and by what it is recognised."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from data_pipeline.config import DataConfig, TokenizerConfig, evaluation_masking
from data_pipeline.errors import UserError
from data_pipeline.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from data_pipeline.blocks import Statistics
    from data_pipeline.tokenizer import Tokenizer

FILE = "manifest.json"

READING = ("dir", "source", "text_field", "weights", "masking")
"""Fields of the data section that say where rows are and how to read them; the others, what is in them."""


@dataclass(frozen=True)
class Manifest:
    """Counts are by split, "train" and "validation"."""

    sources: list[str]
    fingerprint: str
    """Hash of every row, the tokenizer and the row length."""
    tokenizer_sha256: str
    vocab_size: int
    special_tokens: SpecialTokens
    sequence_length: int
    max_sequences_per_row: int
    documents: dict[str, int]
    duplicates: dict[str, int]
    """Documents that were dropped because another one has the same text."""
    empty: int
    """Documents that were left out: their text is null, or nothing but spaces."""
    rows: dict[str, int]
    rows_by_source: dict[str, list[int]]
    """The same, by source: those of a source lie together, in the order of `sources`."""
    sequences: dict[str, int]
    tokens: dict[str, int]
    fill: dict[str, float]
    """Share of the rows' columns that hold a token."""
    unigram_loss: float
    """Nats a token of the held-out tokens under the training frequencies: the loss to get under."""
    majority_nsp_accuracy: float | None
    """Accuracy on the labels of held-out pairs of always giving the more frequent one."""
    settings: dict[str, Any]
    """The data section of the config that it was prepared with, less what only reading needs."""

    @property
    def baselines(self) -> dict[str, float]:
        """`unigram_loss`, and `majority_nsp_accuracy` where there are pairs: to compare metrics with."""
        known = {"unigram_loss": self.unigram_loss, "majority_nsp_accuracy": self.majority_nsp_accuracy}
        return {name: value for name, value in known.items() if value is not None}

    @classmethod
    def of(
        cls,
        config: DataConfig,
        words: Tokenizer,
        statistics: Mapping[tuple[int, str], Statistics],
        *,
        empty: int,
    ) -> Manifest:
        """The manifest of a dataset with these counts, by source and split."""
        splits = sorted({split for _, split in statistics})
        parts = {
            split: [counted for part, counted in sorted(statistics.items()) if part[1] == split]
            for split in splits
        }
        total = {split: functools.reduce(operator.add, counted) for split, counted in parts.items()}
        train, held_out = total["train"], total.get("validation", total["train"])
        digests = {split: [counted.digest for counted in parts[split]] for split in splits}
        identity = json.dumps([words.sha256, config.sequence_length, digests])
        settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in READING}
        return cls(
            sources=list(config.sources),
            fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
            tokenizer_sha256=words.sha256,
            vocab_size=words.vocab_size,
            special_tokens=words.special_tokens,
            sequence_length=config.sequence_length,
            max_sequences_per_row=config.max_sequences_per_row,
            documents={split: counted.documents for split, counted in total.items()},
            duplicates={split: counted.duplicates for split, counted in total.items()},
            empty=empty,
            rows={split: counted.rows for split, counted in total.items()},
            rows_by_source={split: [counted.rows for counted in parts[split]] for split in splits},
            sequences={split: counted.sequences for split, counted in total.items()},
            tokens={split: counted.tokens for split, counted in total.items()},
            fill={
                split: round(counted.tokens / (counted.rows * config.sequence_length), 4)
                for split, counted in total.items()
            },
            unigram_loss=_unigram_loss(train.token_counts, held_out.token_counts, words.special_tokens.ids),
            majority_nsp_accuracy=_majority(held_out.label_counts[:2]),
            settings=_plain(settings),
        )

    def save(self, directory: epath.Path) -> None:
        (directory / FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Raises FileNotFoundError or UserError, with what to do, if there is no such dataset."""
        try:
            fields = json.loads((directory / FILE).read_text())
        except FileNotFoundError:
            raise FileNotFoundError(
                f"data.dir {directory} holds no prepared dataset; run `bert-jax prepare CONFIG` first"
            ) from None
        except json.JSONDecodeError as error:
            raise UserError(f"{directory / FILE} is damaged ({error}); prepare the dataset again") from error
        try:
            special = fields["special_tokens"]
            special_tokens = SpecialTokens(**{**special, "others": tuple(special["others"])})
            return cls(**{**fields, "special_tokens": special_tokens})
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{directory / FILE} was written by another version of bert-jax ({error}); prepare it again"
            ) from error

    def config(self, directory: Path) -> DataConfig:
        """The configuration that reads this dataset, which is in `directory`, masked as for evaluation."""
        tokenizer: dict[str, Any] = {  # JSON has no tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.settings["tokenizer"].items()
        }
        return dataclasses.replace(
            DataConfig(),
            **self.settings | {"tokenizer": TokenizerConfig(**tokenizer)},
            source=tuple(self.sources),
            dir=str(directory),
            masking=evaluation_masking(self.sequence_length),
        )

    def check(self, config: DataConfig) -> None:
        """Raises UserError if `config` asks for rows that this dataset does not have."""
        if config.weights and list(config.sources) != self.sources:
            raise UserError(
                f"data.weights are for data.source {', '.join(config.sources)}, but data.dir {config.dir} "
                f"was prepared from {', '.join(self.sources)}: name the same sources in the same order"
            )
        for name, prepared in self.settings.items():
            wanted = getattr(config, name)
            wanted = dataclasses.asdict(wanted) if dataclasses.is_dataclass(wanted) else wanted  # type: ignore[arg-type]
            if _plain(wanted) != prepared:
                raise UserError(
                    f"data.dir {config.dir} was prepared with data.{name}={prepared!r}, the config says "
                    f"{wanted!r}: prepare it again under another --data.dir, or change the config"
                )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def _unigram_loss(train: np.ndarray, held_out: np.ndarray, special_ids: list[int]) -> float:
    """Nats a token of the held-out tokens under the training frequencies, add-one: knowing no context."""
    train = np.delete(train, special_ids).astype(np.float64) + 1
    held_out = np.delete(held_out, special_ids)
    return float(-(held_out * np.log(train / train.sum())).sum() / max(1, held_out.sum()))


def _majority(labels: np.ndarray) -> float | None:
    """Accuracy of always giving the more frequent label; None without labels."""
    return float(labels.max() / labels.sum()) if labels.sum() else None
