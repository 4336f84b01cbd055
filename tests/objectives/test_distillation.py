"""Distillation: its losses against NumPy, what they are between equals, and a teacher that stays as it is."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
import scipy.special

from bert_jax.config import BertConfig, Config, DistillationConfig, EncoderConfig, ModernBertConfig
from bert_jax.models.encoder import LayerStates
from bert_jax.objectives.objective import mean
from bert_jax.ops.attention import PLAIN
from bert_jax.parallel import sharding
from bert_jax.training import network
from bert_jax.training.fits import check_fits
from bert_jax.training.network import (
    Network,
    Parameter,
    Params,
    flops,
    kept_bytes,
    modules,
    with_constants,
)
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import abstract_constants, eval_step, init_state, jit_init_state, jit_train_step
from data_pipeline.errors import UserError
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.steps import mesh_of
from tests.helpers.teachers import constants_of, lively_params, network_of, student

EVERYTHING: dict[str, Any] = {
    "mlm_weight": 0.5,
    "soft_weight": 2.0,
    "hidden_weight": 0.3,
    "relations_weight": 1.5,
    "relation_heads": 8,
    "teacher_layer": 1,
}


@pytest.fixture(scope="module")
def small(config: Config) -> Config:
    """Without dropout, so that a step can be compared."""
    return replace(config, model__hidden_dropout_prob=0.0, model__attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="module")
def wide(small: Config) -> BertConfig:
    """A teacher that is wider and deeper than the student."""
    assert isinstance(small.model, BertConfig)
    return dataclasses.replace(small.model, hidden_size=48, num_hidden_layers=3, intermediate_size=96)


def modernbert(**fields: Any) -> ModernBertConfig:
    return ModernBertConfig(
        vocab_size=700,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        local_attention=16,
        **fields,
    )


def evaluated(spec: RunSpec, params: Params, teacher: Params, batch: Any) -> dict[str, float]:
    head = spec.network.settings.soft_weight > 0
    constants = constants_of(teacher, head=head)
    sums = jax.jit(functools.partial(eval_step, spec))(with_constants(params, constants), batch)
    return {name: float(mean(pair)) for name, pair in sums.items()}


# The losses


def relations_of_numpy(states: LayerStates, segments: np.ndarray, heads: int) -> list[list[np.ndarray]]:
    """Of queries, keys and values: log probabilities [tokens, tokens] for each head of each sequence."""
    found = []
    for vectors in states[1:]:
        of_sequences = []
        for row, ids in zip(np.asarray(vectors, np.float64), segments, strict=True):
            for number in range(1, ids.max() + 1):
                by_head = row[ids == number].reshape((ids == number).sum(), heads, -1).swapaxes(0, 1)
                logits = by_head @ by_head.swapaxes(1, 2) / np.sqrt(by_head.shape[-1])
                of_sequences.append(scipy.special.log_softmax(logits, axis=-1))
        found.append(of_sequences)
    return found


def with_states(found: Network, params: Params, batch: Any, layer: int) -> tuple[jax.Array, LayerStates]:
    def encode(params: Params, batch: Any) -> Any:
        return modules(found, params).encoder.encode_with_states(batch, layer=layer, kernels=PLAIN)

    return jax.jit(encode)(params, batch)


def divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(one || other) of log probabilities along the last axis."""
    return (np.exp(one) * (one - other)).sum(-1)


@pytest.mark.long
@pytest.mark.parametrize("temperature", [4.0, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.3, 1.0))])
def test_losses_are_those_of_numpy(small: Config, wide: BertConfig, batches, temperature: float):
    """Packed rows: relations do not leave their sequence; padding is in no loss."""
    spec = student(small, wide, temperature=temperature, **EVERYTHING)
    params, teacher = lively_params(spec.network), lively_params(network_of(wide), 1)
    (batch,) = batches(1)
    found = evaluated(spec, params, teacher, batch)

    ours = modules(spec.network, with_constants(params, constants_of(teacher)))
    theirs = modules(network_of(wide), teacher)
    hidden, states = with_states(spec.network, with_constants(params, constants_of(teacher)), batch, 1)
    taught, taught_states = with_states(network_of(wide), teacher, batch, 1)
    logits = (logits_of(both, x, batch) for both, x in ((ours, hidden), (theirs, taught)))
    log_probs, log_taught = (scipy.special.log_softmax(x[..., :700] / temperature, axis=-1) for x in logits)
    soft = temperature**2 * np.average(divergence(log_taught, log_probs), weights=batch["mlm_weights"])
    assert found["soft_loss"] == pytest.approx(soft, rel=1e-4)

    real = batch["segment_ids"] > 0
    distance = np.square(np.asarray(ours.objective.projection(states[0]) - taught_states[0])).mean(-1)
    assert found["hidden_loss"] == pytest.approx(distance[real].mean(), rel=1e-4)

    total = 0.0
    pairs = (relations_of_numpy(x, batch["segment_ids"], 8) for x in (states, taught_states))
    for one, other in zip(*pairs, strict=True):
        total += sum(divergence(their, our).mean(axis=0).sum() for our, their in zip(one, other, strict=True))
    assert found["relations_loss"] == pytest.approx(total / real.sum(), rel=1e-4)


def logits_of(both: Any, hidden: Any, batch: Any) -> np.ndarray:
    taken = np.take_along_axis(np.asarray(hidden), batch["mlm_positions"][..., None], axis=1)
    head = both.objective.mlm
    table, bias = np.asarray(both.encoder.word_embeddings[...]), np.asarray(head.bias[...])
    return np.asarray(head(taken), np.float64) @ table.T + bias


@pytest.mark.long
def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(small: Config, batches):
    assert isinstance(small.model, BertConfig)
    spec = student(small, small.model, relations_weight=1.0)
    teacher = lively_params(network_of(small.model))
    (batch,) = batches(1)
    found = evaluated(spec, teacher, teacher, batch)
    assert found["soft_loss"] == pytest.approx(0, abs=1e-5)
    assert found["relations_loss"] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_what_does_not_count_is_left_out(small: Config, wide: BertConfig, batches):
    (batch,) = batches(1)
    for weights, expected in (
        ({"relations_weight": 1.0, "soft_weight": 0.0}, {"relations_loss"}),
        ({"hidden_weight": 1.0, "mlm_weight": 0.0}, {"soft_loss", "hidden_loss"}),
    ):
        spec = student(small, wide, **weights)
        found = evaluated(spec, lively_params(spec.network), lively_params(network_of(wide)), batch)
        assert found.keys() == {"mlm_loss", "mlm_accuracy"} | expected
        shown = {metric.name for metric in spec.network.objective.metrics(spec.network.settings)}
        assert shown == found.keys() | {"loss"}
        losses = network.loss_weights(spec.network, batch)
        assert losses.keys() == expected | ({"mlm_loss"} if spec.network.settings.mlm_weight else set())
        assert ("projection" in network.parameters(spec.network)["objective"]) == ("hidden_loss" in expected)


def shortened(params: Params, whole: Network, short: Network) -> Params:
    """The parameters of a model that ends earlier."""
    names = [parameter.huggingface for parameter in jax.tree.leaves(network.parameters(whole))]
    found = dict(zip(names, jax.tree.leaves(params), strict=True))

    def cut(parameter: Parameter) -> jax.Array:
        array = found[parameter.huggingface]
        return array[: parameter.shape[0]] if parameter.is_stacked else array

    return jax.tree.map(cut, network.parameters(short))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
@pytest.mark.parametrize("layer", [0, 2])
def test_the_states_of_a_layer_are_those_of_a_model_that_ends_there(
    small: Config, batches, kind: str, layer: int
):
    model: EncoderConfig = small.model if kind == "bert" else modernbert(hidden_size=32)
    whole = network_of(dataclasses.replace(model, num_hidden_layers=4))
    short = network_of(dataclasses.replace(model, num_hidden_layers=layer + 1))
    params, (batch,) = lively_params(whole), batches(1)
    hidden, states = with_states(whole, params, batch, layer)
    plain = jax.jit(functools.partial(network.encode, whole, kernels=PLAIN))(params, batch)
    np.testing.assert_allclose(hidden, plain, atol=1e-5)
    _, expected = with_states(short, shortened(params, whole, short), batch, layer)
    if kind == "modernbert" and layer < 3:  # what leaves a layer is normalized behind the last one only
        norm = modules(whole, params).encoder.norm
        states = states._replace(hidden_BxSxD=norm(states.hidden_BxSxD))
    for found, wanted in zip(states, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


# The step


def step_of(
    spec: RunSpec, teacher: Params, batch: Any, mesh: tuple[int, int, int] = (1, 1, 1)
) -> tuple[Params, dict[str, float], Params]:
    """Parameters and metrics after a step, and the constants."""
    built = mesh_of(mesh)
    check_fits(spec, built)
    with jax.set_mesh(built):
        where = jax.tree.map(lambda leaf: leaf.sharding, abstract_constants(spec, built))
        constants = jax.device_put(constants_of(teacher), where)
        on_mesh = sharding.global_batch(batch, built, batch_size=len(batch["token_ids"]))
        step = jit_train_step(spec, built, spec.stages[-1])
        state, metrics = step(jit_init_state(spec, built)(), on_mesh, constants)
    return state.params, {name: float(value) for name, value in metrics.items()}, constants


@pytest.fixture(scope="module")
def on_one_device(small: Config, wide: BertConfig, config: Config) -> Any:
    (batch,) = read_batches(config, 1)
    teacher = lively_params(network_of(wide), 1)
    return batch, teacher, *step_of(student(small, wide, **EVERYTHING), teacher, batch)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mesh", "changes"),
    [
        ((2, 2, 2), {"train__microbatches": 2}),
        pytest.param((8, 1, 1), {"model__scan_unroll": 2}, marks=pytest.mark.slow),
        pytest.param((1, 1, 4), {"model__remat": "full"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_split_of_the_batch_gives_the_same_step(
    small: Config, wide: BertConfig, on_one_device, mesh: tuple[int, int, int], changes: dict[str, Any]
):
    batch, teacher, _, expected, _ = on_one_device
    spec = student(replace(small, **changes), wide, **EVERYTHING)
    _, metrics, _ = step_of(spec, teacher, batch, mesh)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


@pytest.mark.long
def test_the_loss_is_the_sum_of_what_counts(on_one_device):
    metrics = on_one_device[3]
    losses = {name: value for name, value in metrics.items() if name.endswith("_loss")}
    assert losses.keys() == {"mlm_loss", "soft_loss", "hidden_loss", "relations_loss"}
    total = sum(EVERYTHING[name.replace("loss", "weight")] * value for name, value in losses.items())
    assert metrics["loss"] == pytest.approx(total, rel=1e-5)


def test_the_teacher_stays_as_it_is(small: Config, wide: BertConfig, on_one_device):
    """It is in no state and no checkpoint, and the step leaves it alone."""
    _, teacher, params, _, constants = on_one_device
    assert params["objective"].keys() == {"mlm", "projection"}
    assert jax.tree.all(jax.tree.map(np.array_equal, constants, constants_of(teacher)))
    spec = student(small, wide, **EVERYTHING)
    assert "teacher" not in str(jax.tree.leaves_with_path(jax.eval_shape(lambda: init_state(spec))))
    assert network.count_parameters(spec.network) == network.count_parameters(
        spec_of(replace(small, objective=network_of(wide).settings)).network
    ) + 48 * (32 + 1)


@pytest.mark.long
def test_the_student_begins_as_it_would_without_a_teacher(small: Config, wide: BertConfig):
    specs = spec_of(replace(small, objective=network_of(wide).settings)), student(small, wide, **EVERYTHING)
    alone, taught = (jit_init_state(spec, mesh_of((1, 1, 1)))().params for spec in specs)
    for part in ("encoder", "objective"):
        for name, leaves in alone[part].items():
            assert jax.tree.all(jax.tree.map(np.array_equal, leaves, taught[part][name])), name


@pytest.mark.long
@pytest.mark.parametrize("taught", ["bert", "modernbert"])
def test_teacher_and_student_may_be_of_two_architectures(
    small: Config, wide: BertConfig, batches, taught: str
):
    modern = modernbert(hidden_size=32, num_hidden_layers=2)
    pair = (modern, wide) if taught == "modernbert" else (small.model, modern)
    spec = student(replace(small, model=pair[0]), pair[1], **EVERYTHING)
    (batch,) = batches(1)
    found = evaluated(spec, lively_params(spec.network), lively_params(network_of(pair[1]), 1), batch)
    assert all(np.isfinite(value) and value > 0 for name, value in found.items() if name.endswith("_loss"))


def test_the_cost_of_the_teacher_counts_once(small: Config, wide: BertConfig):
    """Forward alone, where what is trained counts three times."""
    alone, taught = spec_of(replace(small, objective=network_of(wide).settings)), student(small, wide)
    forward = flops(network_of(wide), alone.rows) / 3
    assert flops(taught.network, taught.rows) == pytest.approx(flops(alone.network, alone.rows) + forward)
    sizes = [kept_bytes(spec.network, spec.rows, kernels=PLAIN) for spec in (alone, taught)]
    assert sizes[1] > sizes[0]


# What is refused


@pytest.mark.parametrize(
    ("teacher", "objective", "message"),
    [
        (
            {"vocab_size": 900},
            {},
            r"the teacher has a vocabulary of 900 pieces, but model\.vocab_size is 700",
        ),
        (
            {},
            {"teacher_layer": 3},
            r"teacher_layer is 3, but objective\.teacher the teacher has the layers 0 to 2",
        ),
        ({}, {"teacher_layer": -1}, r"teacher_layer is -1, but"),
        ({"max_position_embeddings": 32}, {}, r"has 32 positions; data\.sequence_length is 64"),
        ({"type_vocab_size": 1}, {}, r"cannot read the rows: its type_vocab_size is 1"),
        (
            {},
            {"relations_weight": 1.0, "relation_heads": 12},
            r"relation_heads 12 does not divide both the hidden_size 48 of the teacher and model",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    small: Config, wide: BertConfig, teacher: dict[str, int], objective: dict[str, Any], message: str
):
    with pytest.raises(UserError, match=message):
        student(small, dataclasses.replace(wide, **teacher), **objective)


def test_a_teacher_that_does_not_divide_over_the_mesh_is_refused(small: Config, wide: BertConfig):
    spec = student(small, dataclasses.replace(wide, hidden_size=36))
    with pytest.raises(
        UserError, match=r"objective\.teacher: its hidden_size 36 is not divisible by mesh\.fsdp 8"
    ):
        check_fits(spec, mesh_of((1, 8, 1)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, r"objective\.temperature is 0\.0; it must be positive"),
        ({"mlm_weight": -1.0}, r"objective\.mlm_weight is -1\.0; it must be at least 0"),
        ({"soft_weight": 0.0}, "nothing is learned from the teacher"),
        ({"relation_heads": 0}, r"objective\.relation_heads is 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        DistillationConfig(**fields)
