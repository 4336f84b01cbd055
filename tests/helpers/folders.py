"""Models as Hugging Face has them, in a folder of their own."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import safetensors.numpy

from bert_jax.config import EmbeddingConfig, LateInteractionConfig
from bert_jax.interop import huggingface, multi_vector, sentence_transformers
from bert_jax.training.network import Network, Params, init_params
from data_pipeline.tokenizer import Tokenizer


def lively(network: Network) -> Params:
    """Weights that make different outputs of different texts."""
    params = init_params(network, jax.random.key(3))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def write_folder(
    folder: Path, network: Network, tokenizer: Tokenizer, *, dimensions: int | None = None
) -> Path:
    """Lively weights for any objective or task, as `export` writes them.

    Args:
      dimensions: of an embedding; None: all.
    """
    folder.mkdir(exist_ok=True)
    tokenizer.save(folder)
    tensors = huggingface.to_tensors(network, lively(network))
    match network.settings:
        case EmbeddingConfig():
            sentence_transformers.write(folder, network, dimensions=dimensions)
        case LateInteractionConfig():
            tensors = multi_vector.write(folder, network, tensors, tokenizer)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = huggingface.to_config(network, special_tokens=tokenizer.special_tokens)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder
