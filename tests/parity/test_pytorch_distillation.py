"""Distillation is what PyTorch does: Transformers' BERT as teacher and student, twenty steps of AdamW."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import BertConfig, Config, MeshConfig
from bert_jax.interop import huggingface
from bert_jax.parallel import sharding
from bert_jax.training.step import init_state, train_step
from tests.helpers.configs import replace
from tests.helpers.pytorch import adamw, arguments, first_sequences, pytorch_model
from tests.helpers.teachers import constants_of, lively_params, network_of, student

STEPS, TEMPERATURE, HEADS, LAYER = 20, 2.0, 8, 1
WEIGHTS = {"mlm_weight": 0.5, "soft_weight": 2.0, "hidden_weight": 0.7, "relations_weight": 1.5}


class States:
    """Queries, keys and values of a layer of a Transformers model, as its last call has computed them."""

    def __init__(self, model: Any, layer: int):
        attention = model.bert.encoder.layer[layer].attention.self
        self.found: dict[str, torch.Tensor] = {}
        for name in ("query", "key", "value"):
            getattr(attention, name).register_forward_hook(functools.partial(self._keep, name))

    def _keep(self, name: str, module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.found[name] = output


def relations(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, heads, S, S] log probabilities."""
    by_head = vectors.reshape(*vectors.shape[:2], HEADS, -1).transpose(1, 2)
    logits = by_head @ by_head.transpose(2, 3) / by_head.shape[-1] ** 0.5
    return logits.masked_fill(mask[:, None, None, :] == 0, -1e9).log_softmax(-1)


def divergence(teacher: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(ours, teacher, reduction="none", log_target=True).sum(-1)


def pytorch_loss(
    theirs: Any, teacher: Any, projection: torch.nn.Linear, states: list[States], batch: dict[str, np.ndarray]
) -> torch.Tensor:
    asked = arguments(batch)
    ours = theirs(**asked, output_hidden_states=True)
    with torch.no_grad():
        taught = teacher(**asked, output_hidden_states=True)
    masked, mask = asked["labels"] != -100, asked["attention_mask"]
    log_probs, log_taught = ((found.logits[masked] / TEMPERATURE).log_softmax(-1) for found in (ours, taught))
    soft = TEMPERATURE**2 * divergence(log_taught, log_probs).mean()
    difference = projection(ours.hidden_states[-1]) - taught.hidden_states[LAYER + 1]
    hidden = difference.square().mean(-1)[mask > 0].mean()
    related = torch.zeros(())
    for name in ("query", "key", "value"):
        one, other = (relations(found.found[name], mask) for found in states)
        related = related + divergence(other, one).mean(1)[mask > 0].mean()
    losses = {"mlm": ours.loss, "soft": soft, "hidden": hidden, "relations": related}
    return sum(WEIGHTS[f"{name}_weight"] * loss for name, loss in losses.items())


@pytest.mark.long
def test_twenty_steps_are_those_of_pytorch(config: Config, batches):
    config = replace(
        config,
        model__hidden_dropout_prob=0.0,
        model__attention_probs_dropout_prob=0.0,
        optimizer__learning_rate=2e-3,
    )
    assert isinstance(config.model, BertConfig)
    wide = dataclasses.replace(config.model, hidden_size=48, num_hidden_layers=3, intermediate_size=96)
    how = {"temperature": TEMPERATURE, "relation_heads": HEADS, "teacher_layer": LAYER}
    spec = student(config, wide, **WEIGHTS, **how)
    teacher_params = lively_params(network_of(wide), 1, noise=0.05)
    state, constants = init_state(spec), constants_of(teacher_params)

    theirs = pytorch_model(transformers.BertForMaskedLM, spec.network, state.params).eval()
    teacher = pytorch_model(transformers.BertForMaskedLM, network_of(wide), teacher_params).eval()
    ours = huggingface.to_tensors(spec.network, state.params)
    projection = torch.nn.Linear(32, 48)
    for name in ("weight", "bias"):
        getattr(projection, name).data = torch.tensor(ours[f"distillation.projection.{name}"])
    both = torch.nn.ModuleDict({"student": theirs, "projection": projection})
    states = [States(theirs, 1), States(teacher, LAYER)]
    optimizer = adamw(config, both)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, spec.warmup_steps, spec.steps)

    step = jax.jit(functools.partial(train_step, spec, spec.stages[-1]))
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])):
        for batch in map(first_sequences, batches(STEPS)):
            state, metrics = step(state, batch, constants)
            loss = pytorch_loss(theirs, teacher, projection, states, batch)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(both.parameters(), config.optimizer.clip_norm)
            optimizer.step()
            scheduler.step()
            assert float(metrics["loss"]) == pytest.approx(loss.item(), abs=1e-4)
            assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-3)

    expected = {f"distillation.projection.{n}": p for n, p in projection.state_dict().items()}
    expected |= theirs.state_dict()
    found = huggingface.to_tensors(spec.network, state.params)
    assert "distillation.projection.weight" in found
    for name, array in found.items():
        other = expected[name].numpy()
        if name.endswith("layer.0.attention.self.key.bias"):
            assert max(np.abs(array).max(), np.abs(other).max()) < 1e-4, "no gradient but rounding"
            continue
        assert np.linalg.norm(array - other) / np.linalg.norm(other) <= 1e-3, name
