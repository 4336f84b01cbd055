"""The analytic cost of a step is what the compiler counts, and what the papers' formula says."""

from __future__ import annotations

import functools

import jax
import pytest

from bert_jax.config import Config
from bert_jax.config.files import load
from bert_jax.training.chips import chip
from bert_jax.training.flops import kept_bytes, train_step_flops
from bert_jax.training.step import init_state, train_step
from data_pipeline.batch import batch_spec
from tests.helpers.configs import replace


def test_it_is_the_formula_for_bert_base():
    """72 L h^2 + 12 L h S a token, and 6 (h^2 + h V) a prediction; the next-sentence head is a trifle."""
    config = load("configs/bert_base.py")
    h, L, S, V, K = 768, 12, 128, config.model.padded_vocab_size, 20
    a_row = S * (72 * L * h * h + 12 * L * h * S) + K * 6 * (h * h + h * V)
    assert train_step_flops(config) == pytest.approx(256 * a_row, rel=1e-3)


def test_the_compiler_counts_as_many(config: Config):
    """Unrolled, or it counts one layer only; a little more, for what is no matrix product."""
    config = replace(
        config,
        model__hidden_size=256,
        model__intermediate_size=1024,
        model__scan_unroll=2,
        model__hidden_dropout_prob=0.0,
        model__attention_probs_dropout_prob=0.0,
    )
    spec = batch_spec(config.data, rows=config.train.global_batch_size)
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in spec.items()}
    state = jax.eval_shape(lambda: init_state(config))
    compiled = jax.jit(functools.partial(train_step, config)).lower(state, batch).compile()
    assert 1.0 <= compiled.cost_analysis()["flops"] / train_step_flops(config) < 1.06


@pytest.mark.parametrize(("dropout", "a_h"), [(0.1, 5), (0.0, 2)])
def test_kept_bytes_are_those_of_the_paper(dropout: float, a_h: int):
    """s b h (34 + 5 a s / h) bytes a layer in 16 bits (Korthikanti et al. 2022, equation 1)."""
    config = replace(load("configs/bert_large.py"), model__attention_probs_dropout_prob=dropout)
    s, b, h, a, L = 128, 32, 1024, 16, 24
    logits = b * 20 * config.model.padded_vocab_size * 4
    assert kept_bytes(config, rows=b) == L * s * b * h * (34 + a_h * a * s / h) + logits


def test_a_step_takes_little_more_memory_than_it_must(config: Config):
    """State, gradients and what the backward pass needs; at most a quarter more."""
    config = replace(
        config,
        model__hidden_size=512,
        model__num_attention_heads=8,
        model__intermediate_size=2048,
        model__num_hidden_layers=4,
        train__global_batch_size=64,
    )
    spec = batch_spec(config.data, rows=64)
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in spec.items()}
    state = jax.eval_shape(lambda: init_state(config))
    step = jax.jit(functools.partial(train_step, config), donate_argnums=0)
    memory = step.lower(state, batch).compile().memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert 1 < used / (16 * parameters + kept_bytes(config, rows=64)) < 1.25


def test_chips_are_known_by_their_names():
    rates = {"NVIDIA H100 80GB HBM3": 989e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12}
    for name, flops in rates.items():
        known = chip(name)
        assert known is not None
        assert known.flops == flops
    assert chip("cpu") is None
