"""The other side of a comparison: Transformers' model with our weights, our batch as arguments, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bert_jax.config import Config
from bert_jax.interop import huggingface
from bert_jax.training.network import Network, Params
from data_pipeline.batch import unpack

SPECIAL_TOKENS = {f"{role}_token_id": 0 for role in ("pad", "bos", "eos", "cls", "sep")}
"""Ids that any vocabulary has; they change no number that is compared."""


def pytorch_model(kind: Any, network: Network, params: Params) -> Any:
    """`kind` is BertForPreTraining, say."""
    made = kind(kind.config_class(**huggingface.to_config(network) | SPECIAL_TOKENS))
    weights = huggingface.to_tensors(network, params)
    made.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, strict=False)
    return made


def first_sequences(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keeps the first sequence of each row."""
    first = batch["segment_ids"] == 1
    kept = np.take_along_axis(first, batch["mlm_positions"], axis=1) & (batch["mlm_weights"] > 0)
    return {
        "token_ids": np.where(first, batch["token_ids"], 0),
        "segment_ids": first.astype(np.int32),
        "position_ids": np.where(first, batch["position_ids"], 0),
        "token_type_ids": np.where(first, batch["token_type_ids"], 0),
        "mlm_positions": batch["mlm_positions"],
        "mlm_targets": batch["mlm_targets"],
        "mlm_weights": kept.astype(np.float32),
        "cls_positions": batch["cls_positions"][:, :1],
        "nsp_labels": batch["nsp_labels"][:, :1],
        "nsp_weights": batch["nsp_weights"][:, :1],
    }


def arguments(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Of a batch with one sequence a row; the label -100 is for what is not to be predicted."""
    labels = np.full_like(batch["token_ids"], -100)
    batch = unpack(batch)
    rows, slots = np.nonzero(batch["mlm_weights"])
    labels[rows, batch["mlm_positions"][rows, slots]] = batch["mlm_targets"][rows, slots]
    return {
        "input_ids": torch.tensor(batch["token_ids"]).long(),
        "attention_mask": torch.tensor(batch["segment_ids"]),
        "token_type_ids": torch.tensor(batch["token_type_ids"]).long(),
        "labels": torch.tensor(labels).long(),
    }


def adamw(config: Config, model: Any, **options: Any) -> torch.optim.AdamW:
    """Ours in PyTorch: neither biases nor layer norms decay."""
    o = config.optimizer
    decayed, not_decayed = [], []
    for name, parameter in model.named_parameters():
        (not_decayed if name.endswith(".bias") or "norm" in name.lower() else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": o.weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.b1, o.b2), eps=o.eps, **options)
