"""Rows of batches in files: written where the data pipeline is, read where it is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipeline.batch import batch_spec
from data_pipeline.config import DataConfig

Arrays = dict[str, np.ndarray]


def save(path: Path, batches: Iterable[Arrays]) -> int:
    """Writes the rows of `batches`, one after the other, as small as they get; returns how many there are."""
    several = list(batches)
    arrays = {name: np.concatenate([batch[name] for batch in several]) for name in several[0]}
    np.savez_compressed(path, **{name: _narrow(array) for name, array in arrays.items()})
    return len(next(iter(arrays.values())))


def load(path: Path, config: DataConfig, *, split: str = "train") -> Arrays:
    """All rows of a file, with the types that the train step wants."""
    with np.load(path) as file:
        count = len(file[file.files[0]])
        spec = batch_spec(config, rows=count, split=split)
        assert set(spec) == set(file.files), f"{path} holds {sorted(file.files)}, not {sorted(spec)}"
        arrays = {name: file[name].astype(dtype) for name, (_, dtype) in spec.items()}
    for name, (shape, _) in spec.items():
        assert arrays[name].shape == shape, f"{path}: {name} has the shape {arrays[name].shape}, not {shape}"
    return arrays


def take(rows: Arrays, start: int, count: int) -> Arrays:
    """A batch of `count` rows; behind the last row comes the first."""
    size = len(next(iter(rows.values())))
    index = np.arange(start, start + count) % size
    return {name: array[index] for name, array in rows.items()}


def _narrow(array: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest type that holds them."""
    for dtype in (np.uint8, np.uint16):
        if array.dtype != dtype and (array.astype(dtype) == array).all():
            return array.astype(dtype)
    return array
