"""The analytic cost of a step is what the compiler counts, and what the papers' formula says."""

from __future__ import annotations

import functools

import jax
import pytest

from bert_jax.chips import chip
from bert_jax.config import Config, load
from bert_jax.flops import train_step_flops
from bert_jax.step import init_state, train_step
from data_pipeline.batch import batch_spec
from tests.conftest import replace


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


def test_chips_are_known_by_their_names():
    rates = {"NVIDIA H100 80GB HBM3": 989e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12}
    for name, flops in rates.items():
        known = chip(name)
        assert known is not None
        assert known.flops == flops
    assert chip("cpu") is None
