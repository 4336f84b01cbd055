"""TFDS in a folder of the test, with datasets of a few records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def store_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """store_tfds(name, features, train=[{...}, ...]) makes tfds:NAME:train."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # of the variable TFDS_DATA_DIR

    def store(name: str, features: dict[str, Any], **splits: list[dict[str, Any]]) -> None:
        columns = tfds.features.FeaturesDict(features)
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path,
            split_datasets={
                split: tf.data.Dataset.from_generator(
                    lambda rows=rows: iter(rows), output_signature=columns.get_tensor_spec()
                )
                for split, rows in splits.items()
            },
            features=columns,
        )

    return store


@pytest.fixture
def small_reviews(store_tfds: Callable[..., None]) -> str:
    """Shaped like TFDS's glue; the labels of `test` are not known."""
    import tensorflow_datasets as tfds

    text, stars = tfds.features.Text(), tfds.features.ClassLabel(names=["bad", "good"])
    store_tfds(
        "small_reviews",
        {"sentence": text, "label": stars, "score": np.float32, "year": np.int64, "raw": text},
        train=[
            {"sentence": "no film 😭", "label": 0, "score": 0.5, "year": 1999, "raw": b"\xff"},
            {"sentence": "a fine film", "label": 1, "score": 4.5, "year": 2001, "raw": b"\xff"},
        ],
        test=[{"sentence": "a film", "label": -1, "score": np.nan, "year": 2001, "raw": "film"}],
    )
    return "tfds:small_reviews"
