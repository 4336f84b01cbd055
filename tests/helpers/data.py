"""Real text, and the first batches of a prepared dataset."""

from __future__ import annotations

import functools
from itertools import islice

import numpy as np

from bert_jax.config import Config
from data_pipeline.batch import unpack
from data_pipeline.corpus import documents
from data_pipeline.loader import Loader


@functools.cache
def real_documents(count: int) -> list[list[str]]:
    """Lines of `count` documents of the Python documentation, the longest lines cut."""
    stream = islice(documents("builtin:python-docs"), count)
    return [[line[:400] for line in document.lines] for document in stream]


def read_batches(config: Config, count: int, **arguments: object) -> list[dict[str, np.ndarray]]:
    """The first `count` training batches of a run, unpacked."""
    size = config.train.global_batch_size
    with Loader(config.data, split="train", batch_size=size, **arguments) as loader:
        return list(map(unpack, islice(loader, count)))
