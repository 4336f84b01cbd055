"""The other side of a comparison: Transformers' model with our weights, our batch as arguments, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from bert_jax.config import Config
from bert_jax.interop import huggingface
from bert_jax.training.network import Network, Params
from data_pipeline.batch import unpack


def pytorch_model(kind: Any, network: Network, params: Params) -> Any:
    """`kind` is BertForPreTraining or BertForMaskedLM."""
    fields = {name: getattr(network.model, name) for name in network.encoder.HUGGINGFACE.fields}
    made = kind(transformers.BertConfig(**fields))
    weights = huggingface.to_tensors(network, params)
    made.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, strict=False)
    return made


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
        (not_decayed if name.endswith(".bias") or "LayerNorm" in name else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": o.weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=o.learning_rate, betas=(o.b1, o.b2), eps=o.eps, **options)
