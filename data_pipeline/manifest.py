"""The manifest of a prepared dataset: what is in it, and by what it is recognised."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import DataConfig

FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Counts are by split, "train" and "validation"."""

    source: str
    fingerprint: str
    """Hash of every row, the tokenizer and the row length."""
    tokenizer_sha256: str
    vocab_size: int
    special_ids: list[int]
    """[PAD], [UNK], [CLS], [SEP], [MASK]."""
    sequence_length: int
    max_sequences_per_row: int
    documents: dict[str, int]
    rows: dict[str, int]
    sequences: dict[str, int]
    tokens: dict[str, int]
    fill: dict[str, float]
    """Share of the rows' columns that hold a token."""
    unigram_loss: float
    """Nats a token of the held-out tokens under the training frequencies: the loss to get under."""
    majority_nsp_accuracy: float | None
    """Next-sentence accuracy on held-out rows of always giving the more frequent label."""
    settings: dict[str, Any]
    """The data section of the config that it was prepared with, less dir, source and masking."""

    def save(self, directory: Path) -> None:
        (directory / FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Raises FileNotFoundError or ValueError, with what to do, if there is no such dataset."""
        try:
            fields = json.loads((directory / FILE).read_text())
        except FileNotFoundError:
            raise FileNotFoundError(
                f"data.dir {directory} holds no prepared dataset; run `bert-jax prepare CONFIG` first"
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{directory / FILE} is damaged ({error}); prepare the dataset again") from error
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(
                f"{directory / FILE} was written by another version of bert-jax ({error}); prepare it again"
            ) from error

    def check(self, config: DataConfig) -> None:
        """Raises ValueError if `config` asks for rows that this dataset does not have."""
        for name, prepared in self.settings.items():
            wanted = getattr(config, name)
            wanted = dataclasses.asdict(wanted) if dataclasses.is_dataclass(wanted) else wanted  # type: ignore[arg-type]
            if wanted != prepared:
                raise ValueError(
                    f"data.dir {config.dir} was prepared with data.{name}={prepared!r}, the config says "
                    f"{wanted!r}: prepare it again under another --data.dir, or change the config"
                )
