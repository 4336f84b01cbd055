"""AdamW and LAMB beside the formulas in float64 NumPy; schedules without jumps."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config, MeshConfig, OptimizerConfig
from bert_jax.config.as_json import to_json
from bert_jax.parallel import sharding
from bert_jax.training.network import Params, init_params, parameters_in_state
from bert_jax.training.optimizer import decay_mask, make_optimizer, schedule_of
from bert_jax.training.step import init_state, state_sharding
from bert_jax.workdir.run_files import config_from_json
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.steps import run

Arrays = dict[str, np.ndarray]


def flat(tree) -> Arrays:
    leaves = jax.tree.leaves_with_path(tree)
    return {"/".join(part.key for part in path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def reference(config: Config, params: Arrays, gradients: list[Arrays]) -> Arrays:
    """Clipping; then Loshchilov and Hutter (2019) or You et al. (2020), each algorithm 2, layer by layer."""
    o, rate = config.optimizer, schedule_of(spec_of(config))
    mu, nu = ({name: np.zeros_like(x) for name, x in params.items()} for _ in range(2))
    for step, grads in enumerate(gradients):
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        for name, g in grads.items():
            g = g * min(1, o.clip_norm / norm)
            mu[name] = o.b1 * mu[name] + (1 - o.b1) * g
            nu[name] = o.b2 * nu[name] + (1 - o.b2) * g**2
            first, second = (1 - o.b1 ** (step + 1), 1 - o.b2 ** (step + 1)) if o.bias_correction else (1, 1)
            update = mu[name] / first / (np.sqrt(nu[name] / second) + o.eps)
            if name.split("/")[-1] not in ("bias", "scale"):
                update += o.weight_decay * params[name]
                if o.name == "lamb":
                    layers = range(len(update)) if name.startswith("encoder/layers/") else [...]
                    for layer in layers:
                        update[layer] *= np.linalg.norm(params[name][layer]) / np.linalg.norm(update[layer])
            params = params | {name: params[name] - float(rate(step)) * update}
    return params


@pytest.fixture
def gradients(config: Config) -> list:
    """Random numbers, large enough in the first step to be clipped."""
    params = init_state(spec_of(config)).params
    keys = jax.random.split(jax.random.key(1), 6)
    scales = [0.1, 0.001, 0.002, 0.001, 0.003, 0.001]
    return [
        jax.tree.map(lambda x, k=key, s=scale: s * jax.random.normal(k, x.shape), params)
        for key, scale in zip(keys, scales, strict=True)
    ]


@pytest.mark.long
@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_six_steps_are_those_of_the_formula(
    config: Config, gradients: list, name: str, bias_correction: bool
):
    config = replace(
        config,
        optimizer__name=name,
        optimizer__bias_correction=bias_correction,
        optimizer__warmup_steps=2,
        optimizer__weight_decay=0.1,
    )
    params = init_state(spec_of(config)).params
    expected = reference(config, flat(params), list(map(flat, gradients)))
    optimizer = make_optimizer(spec_of(config))
    state = optimizer.init(params)
    for step, grads in enumerate(gradients):
        updates, state = optimizer.update(grads, state, params, position=jnp.asarray(step))
        params = jax.tree.map(jnp.add, params, updates)
    for path, found in flat(params).items():
        np.testing.assert_allclose(found, expected[path], atol=3e-6, err_msg=path)


def first_update(optimizer, grads: Params, params: Params) -> Params:
    return optimizer.update(grads, optimizer.init(params), params, position=jnp.zeros((), jnp.int32))[0]


@pytest.mark.long
def test_the_trust_ratio_is_that_of_one_layer(config: Config, gradients: list):
    """Ten times the weights of layer 1: its update is ten times as long, and no other one changes."""
    config = replace(config, optimizer__name="lamb", optimizer__weight_decay=0.0, optimizer__warmup_steps=0)
    optimizer = make_optimizer(spec_of(config))
    params = init_state(spec_of(config)).params
    larger = jax.tree.map(lambda x: x, params)
    query = larger["encoder"]["layers"]["query"]
    query["kernel"] = query["kernel"].at[1].multiply(10)
    one, other = (first_update(optimizer, gradients[0], p) for p in (params, larger))
    ratio = jax.tree.map(lambda a, b: b / a, one, other)
    kernel = ratio["encoder"]["layers"]["query"].pop("kernel")
    np.testing.assert_allclose(kernel[0], 1, rtol=1e-5)
    np.testing.assert_allclose(kernel[1], 10, rtol=1e-5)
    for rest in jax.tree.leaves(ratio):
        np.testing.assert_allclose(rest, 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_layers_apart_are_updated_as_those_of_a_stack(config: Config, gradients: list, name: str):
    """Decay, trust ratio and the rates of lower layers: an unrolled run has the same ones."""
    config = replace(
        config, optimizer__name=name, optimizer__warmup_steps=0, optimizer__weight_decay=0.1,
        optimizer__layer_decay=0.5,
    )  # fmt: skip
    spec = spec_of(replace(config, model__scan_unroll=2))
    params = init_state(spec.scanned).params
    expected = first_update(make_optimizer(spec.scanned), gradients[0], params)
    apart = init_state(spec).params
    grads = jax.tree.map(lambda x, like: tuple(x) if isinstance(like, tuple) else x, gradients[0], apart)
    found = first_update(make_optimizer(spec), grads, apart)
    stacked = jax.tree.map(lambda _, x: jnp.stack(x) if isinstance(x, tuple) else x, params, found)
    for path, wanted in flat(expected).items():
        np.testing.assert_allclose(flat(stacked)[path], wanted, rtol=1e-5, atol=1e-9, err_msg=path)


def test_where_a_norm_is_zero_the_ratio_is_one(config: Config):
    config = replace(config, optimizer__name="lamb", optimizer__warmup_steps=0)
    params = jax.tree.map(jnp.zeros_like, init_state(spec_of(config)).params)
    optimizer = make_optimizer(spec_of(config))
    zeros, ones = (jax.tree.map(lambda x, v=value: jnp.full_like(x, v), params) for value in (0, 1))
    for grads in (zeros, ones):
        updates = first_update(optimizer, grads, params)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
    assert all((x != 0).all() for x in jax.tree.leaves(updates))


@pytest.mark.long
@pytest.mark.parametrize(
    "mesh",
    [(2, 2, 2), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in [(2, 4, 1), (1, 8, 1)])],
    ids=str,
)
def test_lamb_is_the_same_on_any_mesh(config: Config, mesh: tuple[int, int, int]):
    """At a rate so high that a wrong ratio shows: one of whole stacks moves these losses by 0.1."""
    config = replace(config, optimizer__name="lamb", optimizer__warmup_steps=0, optimizer__learning_rate=1e-2)
    data = read_batches(config, 3)
    _, expected = run(config, data)
    _, found = run(config, data, mesh)
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in expected], abs=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("unroll", [1, 2])
def test_moments_lie_like_their_parameters(config: Config, name: str, bias_correction: bool, unroll: int):
    config = replace(
        config,
        model__scan_unroll=unroll,
        optimizer__name=name,
        optimizer__bias_correction=bias_correction,
        optimizer__mu_dtype="bfloat16",
    )
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spec = spec_of(config)
    layout = state_sharding(spec, mesh)
    state = jax.eval_shape(lambda: init_state(spec))
    adam = next(part for part in layout.opt_state if hasattr(part, "mu"))
    parameters = parameters_in_state(spec.network)
    declared = jax.tree.map(lambda p: sharding.of_parameter(mesh, *p.logical_axes), parameters)
    assert adam.mu == adam.nu == layout.params == declared
    moments = next(part for part in state.opt_state if hasattr(part, "mu"))
    assert {x.dtype for x in jax.tree.leaves(moments.mu)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(moments.nu)} == {jnp.dtype("float32")}


def test_a_first_moment_in_bfloat16_stays_one_and_is_near(config: Config, gradients: list):
    def updated(config: Config):
        optimizer, params = make_optimizer(spec_of(config)), init_state(spec_of(config)).params
        state = optimizer.init(params)
        for step, grads in enumerate(gradients):
            updates, state = optimizer.update(grads, state, params, position=jnp.asarray(step))
        return updates, state

    for correction in (True, False):
        full = replace(config, optimizer__bias_correction=correction, optimizer__warmup_steps=0)
        exact, _ = updated(full)
        near, state = updated(replace(full, optimizer__mu_dtype="bfloat16"))
        adam = next(part for part in state if hasattr(part, "mu"))
        assert {x.dtype for x in jax.tree.leaves(adam.mu)} == {jnp.dtype("bfloat16")}
        for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(near), strict=True):
            assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


def with_schedule(config: Config, *, steps: int, **changes: object) -> Config:
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, steps=steps),
        optimizer=OptimizerConfig(learning_rate=1.0, **changes),
    )


SCHEDULES = ["linear", "polynomial", "cosine", "constant", "inverse_sqrt", "warmup_stable_decay"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules_have_no_jump(config: Config, schedule: str, warmup: int):
    """From any step to the next the rate changes by less than the steepest of them, 1 - sqrt, ever does."""
    decay = 30 if schedule == "warmup_stable_decay" else 0
    config = with_schedule(config, steps=200, schedule=schedule, warmup_steps=warmup, decay_steps=decay)
    rates = np.array([float(schedule_of(spec_of(config))(step)) for step in range(201)])
    assert rates.max() == pytest.approx(1.0)
    assert rates[warmup] == pytest.approx(1.0)
    params = jax.eval_shape(lambda: init_state(spec_of(config)).params)
    update = jax.eval_shape(
        lambda params: first_update(make_optimizer(spec_of(config)), params, params), params
    )
    assert jax.tree.map(jnp.shape, update) == jax.tree.map(jnp.shape, params), "the optimizer takes it"
    steepest = 1 - 0.5**0.5 if schedule == "inverse_sqrt" and not warmup else (1 / 30) ** 0.5
    assert np.abs(np.diff(rates)).max() <= steepest + 1e-6
    match schedule:
        case "constant":
            assert rates[-1] == 1
        case "inverse_sqrt":
            first = max(warmup, 1)
            assert rates[100] == pytest.approx((first / (100 + first - warmup)) ** 0.5)
        case _:
            assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_the_stable_rate_comes_down_by_the_square_root(config: Config):
    config = with_schedule(
        config,
        steps=200,
        schedule="warmup_stable_decay",
        decay_steps=100,
        warmup_steps=10,
        end_learning_rate=0.2,
    )
    rate = schedule_of(spec_of(config))
    assert [float(rate(step)) for step in (10, 50, 100)] == [1.0] * 3
    assert float(rate(125)) == pytest.approx(1 - 0.8 * 0.5)
    assert float(rate(200)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "warmup_stable_decay"}, r"decay_steps is 0; it must be at least 1"),
        ({"decay_steps": 5}, r"decay_steps is 5; .* 0 with any other, here 'linear'"),
        ({"name": "adam"}, r"optimizer\.name is 'adam'; it must be one of 'adamw', 'lamb'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**change)


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 50), (20, 1), (10, 0)])
def test_a_warm_up_may_be_a_share_of_the_steps(config: Config, steps: int, warmup: int):
    """Of those of a budget too; and a run of few steps needs no other flag."""
    config = replace(config, optimizer__warmup_steps=0.05, train__steps=steps)
    assert spec_of(config).warmup_steps == warmup
    tokens = steps * config.train.global_batch_size * config.data.sequence_length
    assert spec_of(replace(config, train__budget=f"{tokens} tokens")).warmup_steps == warmup
    assert config_from_json(to_json(config)) == config


def test_warmup_and_decay_must_fit_in_the_run(config: Config):
    with pytest.raises(ValueError, match=r"warmup_steps 5 and optimizer\.decay_steps 18 together pass"):
        dataclasses.replace(
            config,
            optimizer=OptimizerConfig(warmup_steps=5, schedule="warmup_stable_decay", decay_steps=18),
        )


def test_what_decays_is_matrices_and_embeddings(config: Config):
    mask = decay_mask(spec_of(config).network)
    decayed = {".".join(key.key for key in path) for path, value in jax.tree.leaves_with_path(mask) if value}
    assert decayed == {
        "encoder.embeddings.word", "encoder.embeddings.position", "encoder.embeddings.token_type",
        "encoder.layers.query.kernel", "encoder.layers.key.kernel", "encoder.layers.value.kernel",
        "encoder.layers.attention_output.kernel", "encoder.layers.intermediate.kernel",
        "encoder.layers.output.kernel", "objective.mlm.transform.kernel", "objective.pooler.dense.kernel",
        "objective.nsp.dense.kernel",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "halfway"),
    [("linear", 0.5), ("polynomial", 0.5**0.5), ("cosine", 0.5), ("constant", 1.0)],
)
def test_schedules_warm_up_and_come_down(config: Config, schedule: str, halfway: float):
    config = replace(config, optimizer__schedule=schedule, train__steps=105, optimizer__warmup_steps=5)
    rate = schedule_of(spec_of(config))
    values = [float(rate(step)) for step in range(106)]
    peak = config.optimizer.learning_rate
    assert values[:6] == pytest.approx([peak * i / 5 for i in range(6)])
    assert values[55] == pytest.approx(peak * halfway)
    assert values[105] == pytest.approx(peak if schedule == "constant" else 0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(values[5:]))


def test_lower_layers_take_shorter_steps(config: Config):
    """decay^d, d layers below the heads; the same direction (Clark et al. 2020)."""
    config = replace(config, optimizer__warmup_steps=0)
    params = init_params(spec_of(config).network, jax.random.key(0))
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)

    def updates(decay: float) -> Params:
        optimizer = make_optimizer(spec_of(replace(config, optimizer__layer_decay=decay)))
        return first_update(optimizer, grads, params)

    ratio = jax.tree.map(lambda a, b: np.asarray(b / a), updates(1.0), updates(0.5))
    for path, found in jax.tree.leaves_with_path(ratio):
        top = path[1].key
        L = config.model.num_hidden_layers
        expected = {"embeddings": 0.5 ** (L + 1), "layers": 0.5 ** np.arange(L, 0, -1)}.get(top, 1.0)
        expected = np.reshape(expected, [-1] + [1] * (found.ndim - 1))
        np.testing.assert_allclose(
            found, np.broadcast_to(expected, found.shape), rtol=1e-5, err_msg=str(path)
        )
