"""Checkpoints of google-research/bert, read with TensorFlow, as tensors under Hugging Face's names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bert_jax.interop.huggingface import WEIGHTS_FILE, Tensors
from bert_jax.models import bert
from bert_jax.objectives import mlm_nsp
from bert_jax.training.network import Network
from data_pipeline.config import read_object
from data_pipeline.errors import UserError

CONFIG_FILE, PREFIX = "bert_config.json", "bert_model.ckpt"

RENAMED = [
    ("/", "."),
    (r"layer_(\d+)", r"layer.\1"),
    (r"\.(kernel|gamma)$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"_embeddings$", "_embeddings.weight"),
    (r"predictions\.output_bias$", "predictions.bias"),
    (r"seq_relationship\.output_weights$", "seq_relationship.weight"),
    (r"seq_relationship\.output_bias$", "seq_relationship.bias"),
]
"""Their names (modeling.py, run_pretraining.py) -> Hugging Face's."""

TRAINING = re.compile(r"adam_[mv]$|(^|/)(global_step|good_steps|loss_scale)$")
"""What the optimizer left there."""


def is_checkpoint(directory: Path) -> bool:
    """Rather than a folder of Hugging Face, which may have a bert_config.json left in it."""
    return (directory / CONFIG_FILE).is_file() and not (directory / WEIGHTS_FILE).is_file()


def load_network(directory: Path) -> Network:
    """A BERT with its pretraining heads; raises UserError if bert_config.json is not of one."""
    try:
        fields = read_object(directory / CONFIG_FILE)
        known = {name: fields[name] for name in bert.HUGGINGFACE.fields if name in fields}
        # Their gelu is the approximation with tanh (modeling.py: gelu).
        known["hidden_act"] = {"gelu": "gelu_new"}.get(known["hidden_act"], known["hidden_act"])
        return Network(bert.Config(**known), mlm_nsp, mlm_nsp.Config())
    except KeyError as error:
        raise UserError(f"{directory / CONFIG_FILE} is no config of BERT ({error!r})") from error


def weights_files(directory: Path) -> list[str]:
    """The names of the files that say what the weights are."""
    return [CONFIG_FILE, *(file.name for file in directory.glob(f"{PREFIX}.*"))]


def load_tensors(directory: Path) -> Tensors:
    """The tensors of a folder with bert_config.json and bert_model.ckpt.

    Raises:
      FileNotFoundError, UserError: a file is missing or damaged, or TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"{directory} is a checkpoint of TensorFlow, which is not installed ({error})"
        ) from error
    if not (directory / f"{PREFIX}.index").is_file():
        raise FileNotFoundError(f"{directory} has no {PREFIX}.index")
    try:
        reader = tf.train.load_checkpoint(str(directory / PREFIX))
        names = [name for name in reader.get_variable_to_shape_map() if not TRAINING.search(name)]
        return {_renamed(name): _oriented(name, reader.get_tensor(name)) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"{directory / PREFIX} is damaged ({error})") from error


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _oriented(name: str, array: np.ndarray) -> np.ndarray:
    """A kernel is [in, out] there, a weight of PyTorch's [out, in]."""
    return array.T if name.endswith("/kernel") else array
