"""A prepared dataset of given rows, without corpus and tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.builder import PretrainingRows
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig
from data_pipeline.manifest import Manifest
from data_pipeline.packing import Row

VOCAB_SIZE, SEQUENCE_LENGTH = 100, 48


def write(directory: Path, rows: list[Row]) -> DataConfig:
    """Writes `rows` as the train split and returns the config that reads them."""
    config = DataConfig(
        dir=str(directory),
        sequence_length=SEQUENCE_LENGTH,
        tokenizer=TokenizerConfig(vocab_size=VOCAB_SIZE),
        masking=MaskingConfig(max_predictions=8),
    )
    builder = PretrainingRows(
        splits={"train": [lambda: iter(rows)]}, dtype=np.uint16, data_dir=str(directory.with_name("tfds"))
    )
    builder.download_and_prepare(file_format="array_record")
    Path(builder.data_dir).rename(directory)
    Manifest(
        source="",
        fingerprint="",
        tokenizer_sha256="",
        vocab_size=VOCAB_SIZE,
        special_ids=[0, 1, 2, 3, 4],
        sequence_length=SEQUENCE_LENGTH,
        max_sequences_per_row=1,
        documents={},
        rows={"train": len(rows)},
        sequences={},
        tokens={},
        fill={},
        unigram_loss=0.0,
        majority_nsp_accuracy=None,
        settings={},
    ).save(directory)
    return config
