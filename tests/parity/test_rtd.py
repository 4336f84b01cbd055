"""Replaced-token detection is what PyTorch makes of Transformers' generator and discriminator."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import Config, MeshConfig, RtdConfig
from bert_jax.interop import generator
from bert_jax.objectives import mlm, rtd
from bert_jax.parallel import sharding
from bert_jax.training.network import modules
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import TrainState, init_state, train_step
from tests.helpers.configs import electra_of, replace, spec_of
from tests.helpers.pytorch import SPECIAL_TOKENS, adamw, arguments, first_sequences

STEPS = 20
TABLES = ("word", "position", "token_type")


@functools.partial(jax.jit, static_argnums=0)
def corrupted(spec: RunSpec, state: TrainState, batch: Any) -> tuple[jax.Array, jax.Array]:
    """The samples of a step: the tokens that the discriminator reads, and which were replaced."""
    train, both = spec.config.train, modules(spec.network, state.params)
    key = jax.random.fold_in(jax.random.key(train.seed, impl=train.dropout_prng), state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(batch["token_ids"])))
    head = both.objective
    head.share_embeddings(spec.network.settings, both.encoder)
    hidden = head.generator.encoder.encode(batch, kernels=spec.kernels)
    positions = batch["mlm_positions"]
    inputs = mlm.decoder_inputs(head.generator, head.generator.encoder, hidden, positions)
    made, is_replaced = rtd.corrupt(batch, rtd.samples(inputs, positions, keys))
    return made["token_ids"], is_replaced


def pytorch_pair(spec: RunSpec, state: TrainState) -> torch.nn.ModuleDict:
    """Discriminator and generator with our weights."""
    made = {}
    for name, (network, tensors) in generator.models(spec.network, state.params).items():
        fields = generator.huggingface.to_config(network) | SPECIAL_TOKENS
        model = getattr(transformers, network.huggingface_class)(transformers.ElectraConfig(**fields)).eval()
        found = model.load_state_dict({n: torch.tensor(x) for n, x in tensors.items()}, strict=False)
        assert not found.unexpected_keys
        # A sample may be [PAD], as in google-research/electra; PyTorch would then keep its gradient back.
        table(model.electra, "word").padding_idx = None
        made[name or "discriminator"] = model
    return torch.nn.ModuleDict(made)


def share(pair: torch.nn.ModuleDict, embeddings: str) -> dict[str, torch.nn.Parameter]:
    """Ties the generator's embeddings, or returns what the discriminator adds to them, by table."""
    one, other = pair["discriminator"].electra, pair["generator"].electra
    if embeddings == "shared":
        other.embeddings = one.embeddings
        pair["generator"].generator_lm_head.weight = one.embeddings.word_embeddings.weight
        return {}
    return {name: torch.nn.Parameter(torch.zeros_like(table(one, name).weight)) for name in TABLES}


def table(electra: Any, name: str) -> torch.nn.Embedding:
    return getattr(electra.embeddings, f"{name}_embeddings")


@pytest.mark.long
@pytest.mark.parametrize("embeddings", ["shared", "gradient_disentangled"])
def test_twenty_steps_are_those_of_pytorch(config: Config, batches, embeddings: str):
    """The joint loss, with the same samples and no dropout; gradients that get clipped."""
    config = replace(
        config, model=electra_of(config.model), objective=RtdConfig(generator_size=0.5, embeddings=embeddings)
    )
    config = replace(
        config,
        model__hidden_dropout_prob=0.0,
        model__attention_probs_dropout_prob=0.0,
        optimizer__learning_rate=2e-3,
        optimizer__clip_norm=0.5,
    )
    spec = spec_of(config)
    state = init_state(spec)
    pair = pytorch_pair(spec, state)
    added = share(pair, embeddings)
    for name in added:  # the sum stands in for the table of the discriminator
        table(pair["discriminator"].electra, name).weight.requires_grad_(False)
    trained = torch.nn.ModuleDict(pair)
    trained.register_module("added", torch.nn.ParameterDict(added))
    optimizer = adamw(config, trained)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, spec.warmup_steps, spec.steps)

    step = jax.jit(functools.partial(train_step, spec, spec.stages[-1]))
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])):
        for batch in map(first_sequences, batches(STEPS)):
            ids, is_replaced = map(np.asarray, corrupted(spec, state, batch))
            state, metrics = step(state, batch)
            asked = arguments(batch)
            mlm_loss = pair["generator"](**asked).loss
            asked |= {"input_ids": torch.tensor(ids).long(), "labels": torch.tensor(is_replaced).long()}
            shared = {
                f"electra.embeddings.{name}_embeddings.weight": table(pair["generator"].electra, name)
                .weight.detach()
                .add(added[name])
                for name in added
            }
            rtd_loss = torch.func.functional_call(pair["discriminator"], shared, kwargs=asked, args=()).loss
            optimizer.zero_grad()
            (mlm_loss + 50 * rtd_loss).backward()
            norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            assert abs(float(metrics["mlm_loss"]) - mlm_loss.item()) <= 1e-4
            assert abs(float(metrics["rtd_loss"]) - rtd_loss.item()) <= 1e-5
            assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-4)
            assert is_replaced.any()

    with torch.no_grad():
        for name, x in added.items():
            table(pair["discriminator"].electra, name).weight.copy_(
                table(pair["generator"].electra, name).weight + x
            )
    for name, (_, tensors) in generator.models(spec.network, state.params).items():
        expected = pair[name or "discriminator"].state_dict()
        for tensor, array in tensors.items():
            if tensor.endswith("key.bias"):
                continue  # the gradient is zero but for rounding
            difference = np.linalg.norm(array - expected[tensor].numpy())
            assert difference / np.linalg.norm(expected[tensor].numpy()) <= 1e-4, tensor
