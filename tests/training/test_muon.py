"""Muon on stacked and fused matrices, AdamW for the rest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import ClassificationConfig, Config, MeshConfig, ModernBertConfig
from bert_jax.interop.huggingface import tensor_names, to_tensors
from bert_jax.parallel import sharding
from bert_jax.tasks import classification
from bert_jax.training.muon import dimensions
from bert_jax.training.network import Network, Params, init_params, parameters
from bert_jax.training.optimizer import make_optimizer, schedule_of
from bert_jax.training.step import abstract_state, init_state
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.steps import run

MODERN = ModernBertConfig(
    vocab_size=700,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def muon(config: Config) -> Config:
    return replace(config, optimizer__name="muon", optimizer__warmup_steps=2, optimizer__weight_decay=0.1)


@pytest.fixture(scope="module")
def modern(muon: Config) -> Config:
    return replace(muon, model=MODERN, data__input_format="full_sentences", optimizer__clip_norm=None)


def random_like(params: Params, seed: int) -> Params:
    key = jax.random.key(seed)
    return jax.tree.map(lambda x: jax.random.normal(jax.random.fold_in(key, x.size), x.shape), params)


def updates_of(config: Config, steps: int) -> tuple[Params, list[Params], list[Params]]:
    """Initial parameters, random gradients, and the updates by them; parameters stay as they are."""
    spec = spec_of(config)
    params = init_params(spec.network, jax.random.key(0))
    optimizer = make_optimizer(spec)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    gradients, found = [random_like(params, seed) for seed in range(steps)], []
    for step, grads in enumerate(gradients):
        updates, state = update(grads, state, params, position=jnp.asarray(step + 2))
        found.append(updates)
    return params, gradients, found


def muons(network: Network) -> set[str]:
    """The tensors that are Muon's, by their names in Transformers."""
    declared = jax.tree.leaves(parameters(network))
    return {p.huggingface for p in declared if dimensions(p) is not None}


def test_matrices_are_its_own_and_embeddings_norms_and_biases_are_not(muon: Config, modern: Config):
    layer = "bert.encoder.layer.{}"
    assert muons(spec_of(muon).network) == {
        f"{layer}.attention.self.query.weight", f"{layer}.attention.self.key.weight",
        f"{layer}.attention.self.value.weight", f"{layer}.attention.output.dense.weight",
        f"{layer}.intermediate.dense.weight", f"{layer}.output.dense.weight",
        "bert.pooler.dense.weight", "cls.predictions.transform.dense.weight",
        "cls.seq_relationship.weight",
    }  # fmt: skip
    tensors = ("attn.Wqkv.weight", "attn.Wo.weight", "mlp.Wi.weight", "mlp.Wo.weight")
    assert muons(spec_of(modern).network) == {
        f"model.layers.{layer}.{tensor}" for layer in ("0", "{}") for tensor in tensors
    } | {"head.dense.weight"}


def test_the_classifier_of_a_task_is_not(muon: Config):
    """An output layer (Jordan et al. 2024)."""
    task = ClassificationConfig(train="train.tsv", validation="dev.tsv", labels=("a", "b"))
    found = muons(Network(muon.model, classification, task))
    assert "bert.pooler.dense.weight" in found
    assert "classifier.weight" not in found


def slices(config: Config, tree: Params) -> dict[str, np.ndarray]:
    """Each matrix of Muon's alone: of one layer, and of one part of a fused product."""
    network = spec_of(config).network
    matrices = {}
    for parameter in jax.tree.leaves(parameters(network)):
        if dimensions(parameter) is None:
            continue
        parts = (
            parameter.shape[parameter.logical_axes.index("parts")] if "parts" in parameter.logical_axes else 1
        )
        for name in tensor_names(parameter):
            cut = np.split(to_tensors(network, tree)[name], parts)
            matrices |= {f"{name} {i}": matrix for i, matrix in enumerate(cut)}
    return matrices


@pytest.mark.long
@pytest.mark.parametrize("which", ["muon", "modern"])
def test_each_matrix_moves_as_it_would_alone(which: str, request: pytest.FixtureRequest):
    """Optax's own chain of Muon on one slice, as PyTorch has it, at the rate of the run."""
    config = replace(request.getfixturevalue(which), optimizer__clip_norm=None)
    params, gradients, found = updates_of(config, 3)
    rate = schedule_of(spec_of(config))
    alone = optax.contrib.muon(
        lambda count: rate(count + 2), weight_decay=config.optimizer.weight_decay, consistent_rms=0.2
    )
    matrices = slices(config, params)
    state, update_alone = alone.init(matrices), jax.jit(alone.update)
    for grads, updates in zip(gradients, found, strict=True):
        expected, state = update_alone(slices(config, grads), state, matrices)
        ours = slices(config, updates)
        assert ours.keys() == expected.keys()
        for name, update in ours.items():
            np.testing.assert_allclose(update, expected[name], atol=1e-3 * np.abs(update).max(), err_msg=name)


@pytest.mark.long
def test_an_update_is_near_orthogonal_and_as_long_as_adams(modern: Config):
    """Five iterations bring singular values to 0.7 .. 1.2, most of them (Jordan et al. 2024)."""
    config = replace(modern, optimizer__weight_decay=0.0)
    _, _, (first, *_) = updates_of(config, 1)
    rate = float(schedule_of(spec_of(config))(2))
    for name, update in slices(config, first).items():
        singular = np.linalg.svd(update / rate, compute_uv=False) / (0.2 * max(update.shape) ** 0.5)
        assert singular.min() > 0.3, name
        assert singular.max() < 1.3, name
        assert np.sqrt(np.mean((update / rate) ** 2)) == pytest.approx(0.2, rel=0.25), name


@pytest.mark.long
def test_what_is_not_its_own_moves_as_by_adamw(muon: Config):
    """In every bit."""
    _, _, found = updates_of(muon, 3)
    _, _, adamw = updates_of(replace(muon, optimizer__name="adamw"), 3)
    declared = jax.tree.leaves(parameters(spec_of(muon).network))
    for one, other in zip(found, adamw, strict=True):
        for parameter, x, y in zip(declared, jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert np.array_equal(x, y) == (dimensions(parameter) is None), parameter.huggingface


@pytest.mark.long
def test_a_gradient_that_is_not_finite_moves_nothing(muon: Config):
    """The momentum fades as with a gradient of zero."""
    spec = spec_of(muon)
    params = init_params(spec.network, jax.random.key(0))
    optimizer = make_optimizer(spec)
    update = jax.jit(optimizer.update)
    position = jnp.asarray(3)
    good, bad = random_like(params, 0), jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    _, before = update(good, optimizer.init(params), params, position=position, finite=jnp.asarray(True))
    updates, after = update(bad, before, params, position=position, finite=jnp.asarray(False))
    assert not any(np.any(x) for x in jax.tree.leaves(updates))
    states = (state[2].inner_states["muon"].inner_state[0] for state in (before, after))
    old, new = (jax.tree.leaves(state.mu) for state in states)
    assert old
    for x, y in zip(old, new, strict=True):
        np.testing.assert_allclose(y, 0.95 * np.asarray(x), rtol=1e-6)


def test_momentum_lies_like_its_parameter_and_is_there_once(muon: Config):
    """Matrices have one moment, the rest Adam's two."""
    spec = spec_of(replace(muon, optimizer__mu_dtype="bfloat16"))
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    abstract = abstract_state(spec, mesh)
    states = abstract.opt_state[2].inner_states
    momentum, adam = states["muon"].inner_state[0].mu, states["adam"].inner_state
    declared = jax.tree.leaves_with_path(parameters(spec.network))
    for tree, is_mine in ((momentum, True), (adam.mu, False), (adam.nu, False)):
        found = dict(jax.tree.leaves_with_path(tree))
        expected = {path: p for path, p in declared if (dimensions(p) is not None) == is_mine}
        assert found.keys() == expected.keys()
        for path, parameter in expected.items():
            assert found[path].shape == parameter.shape
            assert found[path].sharding == sharding.of_parameter(mesh, *parameter.logical_axes)
    assert {x.dtype for x in jax.tree.leaves(momentum)} == {jnp.dtype("bfloat16")}
    assert jax.tree.map(jnp.shape, abstract.opt_state) == jax.tree.map(
        jnp.shape, jax.eval_shape(lambda: init_state(spec)).opt_state
    )


@pytest.mark.slow
def test_it_is_the_same_on_any_mesh(muon: Config):
    config = replace(muon, optimizer__learning_rate=1e-2)
    data = read_batches(config, 3)
    _, expected = run(config, data)
    _, found = run(config, data, (2, 2, 2))
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in expected], abs=1e-3)
    assert expected[-1]["loss"] < expected[0]["loss"]
