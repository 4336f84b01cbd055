"""Training is what PyTorch does: same weights, same batches, twenty steps of AdamW, schedule and clipping."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import Config, MeshConfig, MlmConfig, ModernBertConfig
from bert_jax.interop import huggingface
from bert_jax.parallel import sharding
from bert_jax.training.step import init_state, train_step
from tests.helpers.configs import replace, spec_of
from tests.helpers.pytorch import adamw, arguments, first_sequences, pytorch_model

STEPS = 20


@pytest.fixture
def config(config: Config) -> Config:
    """No dropout; one sequence a row, since Hugging Face's model cannot pack; gradients that get clipped."""
    return replace(
        config,
        model__hidden_dropout_prob=0.0,
        model__attention_probs_dropout_prob=0.0,
        optimizer__learning_rate=2e-3,
        optimizer__clip_norm=0.5,
    )


def pytorch_loss(theirs: transformers.BertForPreTraining, batch: dict[str, np.ndarray]) -> torch.Tensor:
    nsp = np.where(batch["nsp_weights"][:, 0] > 0, batch["nsp_labels"][:, 0], -100)
    return theirs(**arguments(batch), next_sentence_label=torch.tensor(nsp).long()).loss


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_twenty_steps_are_those_of_pytorch(config: Config, batches, schedule: str):
    config = replace(config, optimizer__schedule=schedule)
    data = [first_sequences(batch) for batch in batches(STEPS)]
    spec = spec_of(config)
    state = init_state(spec)

    theirs = pytorch_model(transformers.BertForPreTraining, spec.network, state.params).eval()
    optimizer = adamw(config, theirs)
    make_schedule = {
        "linear": transformers.get_linear_schedule_with_warmup,
        "cosine": transformers.get_cosine_schedule_with_warmup,
    }[schedule]
    scheduler = make_schedule(optimizer, spec.warmup_steps, spec.steps)

    step = jax.jit(functools.partial(train_step, spec, spec.stages[-1]))
    clipped, clip_norm = 0, config.optimizer.clip_norm
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        for batch in data:
            state, metrics = step(state, batch)
            assert float(metrics["learning_rate"]) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5)
            loss = pytorch_loss(theirs, batch)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
            optimizer.step()
            scheduler.step()
            assert abs(float(metrics["loss"]) - loss.item()) <= 1e-4
            assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-4)
            clipped += norm.item() > clip_norm
    assert clipped > STEPS / 2, "the clipping was put to the test"

    expected = theirs.state_dict()
    for name, array in huggingface.to_tensors(spec.network, state.params).items():
        if name.endswith("key.bias"):
            # The same amount on every logit of a softmax: the gradient is zero but for rounding.
            assert max(np.abs(array).max(), expected[name].abs().max()) < 1e-4
            continue
        difference = np.linalg.norm(array - expected[name].numpy()) / np.linalg.norm(expected[name].numpy())
        assert difference <= 1e-4, name


@pytest.mark.long
def test_twenty_steps_of_modernbert_are_those_of_pytorch(config: Config, batches):
    """AdamW with clipping and a schedule on rows of one sequence; norms do not decay."""
    model = ModernBertConfig(
        vocab_size=700,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=72,
        max_position_embeddings=64,
        local_attention=16,
    )
    config = replace(
        config,
        model=model,
        objective=MlmConfig(),
        optimizer__learning_rate=2e-3,
        optimizer__clip_norm=0.5,
    )
    spec = spec_of(config)
    state = init_state(spec)
    theirs = pytorch_model(transformers.ModernBertForMaskedLM, spec.network, state.params).eval()
    optimizer = adamw(config, theirs)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, spec.warmup_steps, spec.steps)
    step = jax.jit(functools.partial(train_step, spec, spec.stages[-1]))
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])):
        for batch in map(first_sequences, batches(STEPS)):
            state, metrics = step(state, batch)
            asked = arguments(batch)
            del asked["token_type_ids"]
            loss = theirs(**asked).loss
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            assert abs(float(metrics["loss"]) - loss.item()) <= 1e-4
            assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-4)
    expected = theirs.state_dict()
    for name, array in huggingface.to_tensors(spec.network, state.params).items():
        difference = np.linalg.norm(array - expected[name].numpy()) / np.linalg.norm(expected[name].numpy())
        assert difference <= 1e-4, name
