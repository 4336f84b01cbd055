"""What models of late interaction make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.interop.load import load_model
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import late_interaction
from bert_jax.tasks.groups import Texts
from bert_jax.training.network import Params, modules
from data_pipeline.batch import unpack


def vectors_of(folder: Path, pairs: Sequence[tuple[str, str]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Those of the tokens of each query and of each document that count."""
    network, params, tokenizer = load_model(folder)
    features = late_interaction.featurize([Texts("", pair) for pair in pairs], tokenizer, network.settings)
    batch = unpack(features.arrays)

    @jax.jit
    def logits(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        both = modules(network, params)
        return late_interaction.logits(network.settings, both.objective, both.encoder, batch, kernels=PLAIN)

    found = np.asarray(logits(params, {name: jnp.asarray(array) for name, array in batch.items()}))
    owners = np.where(batch["scored"], batch["segment_ids"], 0)
    queries, documents = ([row[owner == p] for row, owner in zip(found, owners, strict=True)] for p in (1, 2))
    return queries, documents
