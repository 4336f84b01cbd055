"""Parameters are as they are declared; the analytic cost is that of the compiler and of the papers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from bert_jax.config import BertConfig, ClassificationConfig, Config, load_recipe
from bert_jax.objectives import OBJECTIVES, mlm_nsp
from bert_jax.objectives.objective import Objective
from bert_jax.ops.attention import splash, xla
from bert_jax.ops.attention.kernel import Kernel, Kernels
from bert_jax.tasks import TASKS, classification
from bert_jax.training.chips import chip
from bert_jax.training.network import (
    Network,
    Parameter,
    count_parameters,
    init_params,
    kept_bytes,
    parameters,
)
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import init_state, train_step
from data_pipeline.batch import batch_spec
from tests.helpers.configs import model_for, replace, spec_of


def named(tree: object) -> dict[str, object]:
    """The leaves by their path: encoder.layers.query.kernel."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@pytest.mark.parametrize("objective", [*OBJECTIVES, *TASKS], ids=lambda objective: objective.Config.kind)
def test_parameters_are_as_they_are_declared(config: Config, objective: Objective):
    network = Network(model_for(objective, config.model), objective, objective.Config())
    declared = parameters(network)
    made = jax.eval_shape(lambda: init_params(network, jax.random.key(0)))
    assert made.keys() <= {"encoder", "objective"}, "a head may have nothing to learn"
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda parameter: parameter.shape, declared)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    found = jax.tree.leaves(declared)
    assert len({parameter.huggingface for parameter in found}) == len(found)
    for parameter in found:
        assert len(parameter.logical_axes) == len(parameter.shape)
        assert parameter.is_stacked == ("{}" in parameter.huggingface)


def test_what_is_declared_of_parameters(config: Config):
    settings = ClassificationConfig(labels=("a", "b", "c"))
    found = named(parameters(Network(config.model, classification, settings)))
    assert found["encoder.embeddings.word"] == Parameter(
        shape=(768, 32),
        logical_axes=("vocab", "embed"),
        huggingface="bert.embeddings.word_embeddings.weight",
        transposed=False,
        decay=True,
        depth=0,
    )
    assert found["encoder.layers.query.kernel"] == Parameter(
        shape=(2, 32, 32),
        logical_axes=("layers", "embed", "heads"),
        huggingface="bert.encoder.layer.{}.attention.self.query.weight",
        transposed=True,
        decay=True,
        depth=(1, 2),
    )
    assert found["objective.classifier.bias"] == Parameter(
        shape=(3,),
        logical_axes=("labels",),
        huggingface="classifier.bias",
        transposed=False,
        decay=False,
        depth=3,
    )


def test_parameters_are_counted_as_the_paper_does():
    network = Network(BertConfig(), mlm_nsp, mlm_nsp.Config())
    assert count_parameters(network) == 110_106_428  # of Transformers' BertForPreTraining


def test_flops_are_the_formula_for_bert_base():
    """72 L h^2 + 12 L h S a token, and 6 (h^2 + h V) a prediction; the next-sentence head is a trifle."""
    spec = spec_of(load_recipe("configs/bert_base.py"))
    h, L, S, V, K = 768, 12, 128, spec.network.model.padded_vocab_size, 20
    a_row = S * (72 * L * h * h + 12 * L * h * S) + K * 6 * (h * h + h * V)
    assert spec.step_flops == pytest.approx(256 * a_row, rel=1e-3)


def compile_step(spec: RunSpec, **options: object) -> jax.stages.Compiled:
    """The step of the whole batch, on one device."""
    arrays = batch_spec(spec.config.data, rows=spec.config.train.global_batch_size)
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in arrays.items()}
    state = jax.eval_shape(lambda: init_state(spec))
    step = functools.partial(train_step, spec, spec.stages[-1])
    return jax.jit(step, **options).lower(state, batch).compile()


@pytest.mark.long
def test_the_compiler_counts_as_many_flops(config: Config):
    """Unrolled, or it counts one layer only; a little more, for what is no matrix product."""
    config = replace(
        config,
        model__hidden_size=256,
        model__intermediate_size=1024,
        model__scan_unroll=2,
        model__hidden_dropout_prob=0.0,
        model__attention_probs_dropout_prob=0.0,
    )
    spec = spec_of(config)
    assert 1.0 <= compile_step(spec).cost_analysis()["flops"] / spec.step_flops < 1.06


@pytest.mark.parametrize(("kernel", "dropout", "a_h"), [(xla, 0.1, 5), (xla, 0.0, 2), (splash, 0.0, 0)])
def test_kept_bytes_are_those_of_the_paper(kernel: Kernel, dropout: float, a_h: int):
    """s b h (34 + 5 a s / h) bytes a layer in 16 bits (Korthikanti et al. 2022, equation 1)."""
    config = replace(load_recipe("configs/bert_large.py"), model__attention_probs_dropout_prob=dropout)
    spec = spec_of(config)
    s, h, a, L = 128, 1024, 16, 24
    logits = 20 * spec.network.model.padded_vocab_size * 4
    found = kept_bytes(spec.network, spec.rows, kernels=Kernels(kernel))
    assert found == L * s * h * (34 + a_h * a * s / h) + logits


@pytest.mark.long
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
    spec = spec_of(config)
    memory = compile_step(spec, donate_argnums=0).memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    sizes = jax.tree.leaves(jax.eval_shape(lambda: init_state(spec).params))
    kept = 64 * kept_bytes(spec.network, spec.rows, kernels=spec.kernels)
    assert 1 < used / (16 * sum(leaf.size for leaf in sizes) + kept) < 1.25


def test_chips_are_known_by_their_names():
    rates = {"NVIDIA H100 80GB HBM3": 989e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12}
    for name, flops in rates.items():
        known = chip(name)
        assert known is not None
        assert known.flops == flops
    for other in ("cpu", "NVIDIA H100 PCIe", "NVIDIA L40S", "NVIDIA A100-PCIE-40GB"):
        assert chip(other) is None
