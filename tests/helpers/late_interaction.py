"""Models of late interaction: as folders, and the vectors that they make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from bert_jax.config import EncoderConfig, LateInteractionConfig
from bert_jax.interop import huggingface, multi_vector
from bert_jax.interop.load import load_model
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import late_interaction
from bert_jax.tasks.groups import Texts
from bert_jax.training.network import Network, Params, modules
from data_pipeline.batch import unpack
from data_pipeline.tokenizer import Tokenizer
from tests.helpers.embeddings import lively


def write_folder(
    folder: Path, model: EncoderConfig, settings: LateInteractionConfig, tokenizer: Tokenizer
) -> Path:
    """A folder for MultiVectorEncoder and PyLate."""
    network = Network(model, late_interaction, settings)
    folder.mkdir()
    tokenizer.save(folder)
    fields = huggingface.to_config(network, special_tokens=tokenizer.special_tokens)
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = huggingface.to_tensors(network, lively(network))
    tensors = multi_vector.write(folder, network, tensors, tokenizer)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


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
