"""A prepared dataset of given rows, without corpus and tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipeline.builder import Shard, write_files, write_metadata
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig
from data_pipeline.manifest import Manifest
from data_pipeline.packing import Row
from data_pipeline.records import example, serialize
from data_pipeline.special_tokens import SpecialTokens

VOCAB_SIZE, SEQUENCE_LENGTH = 100, 48


def write(directory: Path, *sources: list[Row], weights: tuple[float, ...] = ()) -> DataConfig:
    """Writes rows, of one source or several, as the train split and returns the config that reads them."""
    names = tuple(f"files:{number}" for number in range(len(sources)))
    config = DataConfig(
        source=names,
        weights=weights,
        dir=str(directory),
        sequence_length=SEQUENCE_LENGTH,
        tokenizer=TokenizerConfig(vocab_size=VOCAB_SIZE),
        masking=MaskingConfig(max_predictions=8),
    )
    directory.mkdir()
    shard = Shard("train", 0, 1)
    records = [serialize(example(row, dtype=np.uint16)) for rows in sources for row in rows]
    counts = write_files(directory, [(shard, records)])
    write_metadata(directory, counts, dtype=np.uint16)
    Manifest(
        sources=list(names),
        fingerprint="",
        tokenizer_sha256="",
        vocab_size=VOCAB_SIZE,
        special_tokens=SpecialTokens(),
        sequence_length=SEQUENCE_LENGTH,
        max_sequences_per_row=1,
        documents={},
        duplicates={},
        empty=0,
        rows={"train": len(records)},
        rows_by_source={"train": [len(rows) for rows in sources]},
        sequences={},
        tokens={},
        fill={},
        unigram_loss=0.0,
        majority_nsp_accuracy=None,
        settings={},
    ).save(directory)
    return config
