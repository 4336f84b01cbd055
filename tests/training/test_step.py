"""The step: the same numbers however a batch is cut, or laid on devices."""

from __future__ import annotations

import functools
import re
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from bert_jax.config import Config
from bert_jax.models.layers import gather
from bert_jax.models.stack import restack, take_apart
from bert_jax.objectives import mlm
from bert_jax.ops.attention import PLAIN
from bert_jax.parallel import sharding
from bert_jax.planning.collectives import collectives
from bert_jax.training.fits import check_fits
from bert_jax.training.network import init_params, modules
from bert_jax.training.step import (
    TrainState,
    abstract_state,
    eval_step,
    init_state,
    jit_init_state,
    jit_train_step,
)
from data_pipeline.batch import batch_spec
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.steps import mesh_of, run

MESHES = [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 2, 4)]


@pytest.fixture(scope="module")
def on_one_device(config: Config) -> tuple[list, TrainState, list[dict]]:
    data = read_batches(config, 5)
    return data, *run(config, data)


@pytest.mark.long
@pytest.mark.parametrize("mesh", MESHES[1:], ids=str)
def test_any_mesh_gives_the_losses_of_one_device(config: Config, on_one_device, mesh):
    """With dropout: its masks do not depend on the mesh either."""
    data, _, expected = on_one_device
    _, metrics = run(config, data, mesh)
    for found, wanted in zip(metrics, expected, strict=True):
        for name in ("loss", "mlm_loss", "nsp_loss"):
            assert found[name] == pytest.approx(wanted[name], abs=1e-5)
        assert found["tokens"] == wanted["tokens"]


@pytest.mark.long
@pytest.mark.parametrize(("unroll", "mesh"), [(2, (1, 1, 1)), (9, (2, 2, 1))])
def test_unrolled_is_scanned(config: Config, on_one_device, unroll: int, mesh: tuple[int, int, int]):
    data, _, expected = on_one_device
    _, metrics = run(replace(config, model__scan_unroll=unroll), data, mesh)
    for found, wanted in zip(metrics, expected, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-5)


@pytest.mark.long
def test_an_unrolled_step_copies_no_layer_into_or_out_of_a_stack(config: Config):
    """In the compiled text: it has no array in which the matrices of both layers are."""
    D, F = config.model.hidden_size, config.model.intermediate_size
    shapes = [f"f32[2,{I},{O}]" for I, O in ((D, D), (D, F), (F, D))]
    for unroll, there in ((1, shapes), (2, [])):
        text = lowered(replace(config, model__scan_unroll=unroll), (1, 1, 1)).compile().as_text()
        assert [shape for shape in shapes if shape in text] == there


@pytest.mark.long
def test_a_state_is_taken_apart_and_stacked_again(config: Config):
    """On any mesh, and nothing is lost; each layer lies as its slice of the stack did."""
    mesh = mesh_of((2, 2, 2))
    spec = spec_of(replace(config, model__scan_unroll=2))
    expected = jit_init_state(spec.scanned, mesh)()
    apart = take_apart(jit_init_state(spec.scanned, mesh)(), like=abstract_state(spec, mesh))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, apart, jit_init_state(spec, mesh)()))
    query = apart.params["encoder"]["layers"]["query"]["kernel"]
    assert [(layer.shape, layer.sharding.spec) for layer in query] == [((32, 32), P("fsdp", "tensor"))] * 2
    again = restack(apart, like=abstract_state(spec.scanned, mesh))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(again), strict=True):
        assert one.sharding == other.sharding
        assert (np.asarray(one) == np.asarray(other)).all()


@pytest.mark.long
@pytest.mark.parametrize(("remat", "unroll"), [("dots", 1), ("full", 2)])
def test_what_is_computed_again_is_the_same(config: Config, on_one_device, remat: str, unroll: int):
    data, _, expected = on_one_device
    _, metrics = run(replace(config, model__remat=remat, model__scan_unroll=unroll), data)
    assert [m["loss"] for m in metrics] == pytest.approx([m["loss"] for m in expected], abs=1e-5)


@pytest.mark.slow
def test_rematerialization_keeps_less(config: Config):
    """Temporary memory of the compiled step, at a size where activations are most of it."""
    config = replace(config, model__num_hidden_layers=8, train__global_batch_size=64)
    sizes = {}
    for remat in ("none", "dots", "full"):
        changed = replace(config, model__remat=remat)
        sizes[remat] = lowered(changed, (1, 1, 1)).compile().memory_analysis().temp_size_in_bytes
    assert sizes["full"] < sizes["dots"] < 0.8 * sizes["none"]


def lowered(config: Config, mesh: tuple[int, int, int]):
    """The step, for a batch of the config's shapes."""
    built, spec = mesh_of(mesh), spec_of(config)
    with jax.set_mesh(built):
        batch = sharding.abstract_batch(batch_spec(config.data, rows=config.train.global_batch_size), built)
        return jit_train_step(spec, built, spec.stages[-1]).lower(abstract_state(spec, built), batch)


@pytest.mark.long
def test_gradients_of_unrolled_layers_are_reduced_layer_by_layer_too(config: Config):
    """Before XLA, which may combine them: all of a layer, then products of the layer before it."""
    text = lowered(replace(config, model__scan_unroll=2), (8, 1, 1)).as_text()
    calls = re.findall(r"stablehlo\.(all_reduce|dot_general)", text)
    reductions = [len(list(run)) for name, run in groupby(calls) if name == "all_reduce"]
    params = jax.eval_shape(lambda: init_state(spec_of(config)).params)
    of_a_layer = len(jax.tree.leaves(params["encoder"]["layers"]))
    assert reductions[:2] == [of_a_layer, of_a_layer]
    assert sum(reductions) - 2 * of_a_layer < len(jax.tree.leaves(params)), "the others and the metrics"


@pytest.mark.long
@pytest.mark.parametrize("microbatches", [1, 4])
def test_gradients_cross_the_network_once_a_step(config: Config, microbatches: int):
    """Those of a layer as soon as the backward pass has them, if there is one microbatch only."""
    config = replace(config, train__microbatches=microbatches, train__global_batch_size=32)
    found = collectives(lowered(config, (8, 1, 1)).compile().as_text(), hosts=[0] * 8)
    size = sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: init_state(spec_of(config)).params))
    )
    assert {c.kind for c in found} == {"all-reduce"}
    assert {c.times for c in found} == ({1, 2} if microbatches == 1 else {1}), "there are two layers"
    assert sum(c.bytes * c.times for c in found if c.bytes > 1000) == pytest.approx(4 * size, rel=0.02)
    layer = 4 * (4 * 32 * 32 + 2 * 32 * 64)
    by_layer = sum(c.bytes for c in found if c.times == 2)
    assert by_layer == (pytest.approx(layer, rel=0.1) if microbatches == 1 else 0)


@pytest.mark.long
def test_a_reduction_in_bfloat16_is_asked_for_and_refused_where_it_cannot_be(config: Config):
    config = replace(config, train__reduce_dtype="bfloat16")
    text = lowered(config, (8, 1, 1)).as_text()
    types = re.findall(r"stablehlo.all_reduce.*?\}\) : \((tensor<[^>]*>)", text, flags=re.DOTALL)
    assert "tensor<32x64xbf16>" in types
    assert not [found for found in types if found.endswith("xf32>")]
    with pytest.raises(ValueError, match=r"train\.reduce_dtype bfloat16 needs mesh\.tensor 1"):
        run(config, [], (2, 2, 2))
    with pytest.raises(ValueError, match=r"train\.reduce_dtype bfloat16 does not work on CPUs"):
        run(config, [], (8, 1, 1))


@pytest.mark.long
def test_microbatches_draw_the_same_dropout_masks(config: Config, on_one_device):
    data, _, expected = on_one_device
    _, metrics = run(replace(config, train__microbatches=2), data, (4, 1, 1))
    assert [m["loss"] for m in metrics] == pytest.approx([m["loss"] for m in expected], abs=1e-5)


@pytest.mark.long
def test_the_other_generator_drops_too(config: Config, on_one_device):
    """Other masks, the same model."""
    data, _, expected = on_one_device
    _, metrics = run(replace(config, train__dropout_prng="rbg"), data, MESHES[1])
    assert metrics[0]["loss"] != expected[0]["loss"]
    assert [m["loss"] for m in metrics] == pytest.approx([m["loss"] for m in expected], abs=0.2)


def logits_of(config: Config, params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
    """[B, K, V] of the masked tokens and [B, P, 2] of the pairs."""
    both = modules(spec_of(config).network, params)
    hidden_BxSxD = both.encoder.encode(batch, kernels=PLAIN)
    inputs = mlm.decoder_inputs(both.objective, both.encoder, hidden_BxSxD, batch["mlm_positions"])
    pooled_BxPxD = both.objective.pooler(gather(hidden_BxSxD, batch["cls_positions"]))
    return inputs.logits_BxKxV, both.objective.nsp(pooled_BxPxD)


def without_dropout(config: Config) -> Config:
    return replace(config, model__hidden_dropout_prob=0.0, model__attention_probs_dropout_prob=0.0)


def gradient_of_first_step(config: Config, batch: dict, mesh=(1, 1, 1)) -> dict:
    """From the first moment: it is (1 - b1) times the gradient, which is not clipped here."""
    config = replace(config, optimizer__clip_norm=None)
    state, metrics = run(config, [batch], mesh)
    return optax.tree_utils.tree_get(state.opt_state, "mu"), metrics[0]


@pytest.mark.long
@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 1)], ids=str)
def test_accumulation_gives_the_same_gradient_with_uneven_mask_counts(config: Config, on_one_device, mesh):
    config = without_dropout(config)
    batch = dict(on_one_device[0][0])
    weights = batch["mlm_weights"].copy()
    weights[::4, 1:] = 0  # the first microbatch predicts little
    weights[1::4] = 0  # and the second one nothing
    nsp_weights = batch["nsp_weights"].copy()
    nsp_weights[2::4] = 0
    batch |= {"mlm_weights": weights, "nsp_weights": nsp_weights}
    whole, expected = gradient_of_first_step(config, batch)
    parts, found = gradient_of_first_step(replace(config, train__microbatches=4), batch, mesh)
    for (path, a), b in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(parts), strict=True):
        scale = np.abs(np.asarray(a)).max()
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 2e-5 * scale + 1e-9, jax.tree_util.keystr(path)
    for name in ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "grad_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.long
def test_a_batch_without_masked_tokens_gives_zero_and_no_nan(config: Config, on_one_device):
    batch = dict(on_one_device[0][0])
    batch |= {"mlm_weights": batch["mlm_weights"] * 0, "nsp_weights": batch["nsp_weights"] * 0}
    state, (metrics,) = run(config, [batch])
    assert metrics["loss"] == metrics["grad_norm"] == 0
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))


@pytest.mark.long
def test_packed_sequences_and_padding_have_exactly_zero_gradient_between_each_other(config: Config):
    """The gradient of one sequence's loss by the input embeddings of everything else in its row."""
    config = without_dropout(config)
    segments = np.array([1] * 20 + [2] * 25 + [0] * 19, np.int32)
    columns = np.arange(64, dtype=np.int32)[None]
    row_batch = {
        # Every column its own token and position, so that the embeddings' gradients tell the columns apart.
        "token_ids": columns + 10,
        "position_ids": columns,
        "segment_ids": segments[None],
        "token_type_ids": columns * 0,
        "mlm_positions": columns,
        "cls_positions": np.array([[0, 20, 0]], np.int32),
    }
    network = spec_of(config).network
    params = init_params(network, jax.random.key(0))

    def loss_of(segment: int):
        def loss(params):
            tokens_BxKxV, pairs_BxPx2 = logits_of(config, params, row_batch)
            own = jnp.asarray((segments == segment)[None, :, None])
            by_token = jnp.where(own, tokens_BxKxV, 0)[..., : config.model.vocab_size]
            return (by_token**2).mean() + pairs_BxPx2[0, segment - 1, 0]

        return loss

    for segment in (1, 2):
        position = np.asarray(jax.grad(loss_of(segment))(params)["encoder"]["embeddings"]["position"])
        strength = np.abs(position[: len(segments)]).sum(axis=1)
        assert (strength[segments == segment] > 0).all()
        assert (strength[segments != segment] == 0.0).all()


def test_the_vocabulary_padding_never_wins_and_never_moves(config: Config, on_one_device):
    data, state, _ = on_one_device
    assert config.model.padded_vocab_size > config.model.vocab_size
    tokens_BxKxV, _ = logits_of(config, state.params, data[0])
    probabilities = jax.nn.softmax(tokens_BxKxV, axis=-1)
    assert float(probabilities[..., config.model.vocab_size :].max()) == 0.0
    bias = np.asarray(state.params["objective"]["mlm"]["bias"])
    assert (bias[config.model.vocab_size :] == 0).all()
    assert (bias[: config.model.vocab_size] != 0).any()


def test_the_losses_are_those_of_numpy(config: Config, on_one_device):
    data, state, _ = on_one_device
    tokens_BxKxV, pairs_BxPx2 = logits_of(config, state.params, data[0])
    sums = eval_step(spec_of(config), state.params, data[0])
    for name, scores, labels, weights in (
        ("mlm", tokens_BxKxV, data[0]["mlm_targets"], data[0]["mlm_weights"]),
        ("nsp", pairs_BxPx2, data[0]["nsp_labels"], data[0]["nsp_weights"]),
    ):
        scores = np.asarray(scores, np.float64)
        shifted = scores - scores.max(axis=-1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        nll = -np.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
        total, weight = sums[f"{name}_loss"]
        assert float(total) == pytest.approx((nll * weights).sum(), rel=1e-5)
        assert float(weight) == weights.sum()
        hits, _ = sums[f"{name}_accuracy"]
        assert float(hits) == ((scores.argmax(axis=-1) == labels) * weights).sum()


def test_evaluation_in_microbatches_is_the_same_in_less_memory(config: Config, on_one_device):
    data, state, _ = on_one_device
    memory, losses = [], []
    for count in (1, 4):
        spec = spec_of(replace(config, train__microbatches=count))
        compiled = jax.jit(functools.partial(eval_step, spec)).lower(state.params, data[0]).compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
        losses.append({name: float(x) for name, (x, _) in compiled(state.params, data[0]).items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert memory[1] < 0.5 * memory[0]


@pytest.mark.long
def test_evaluation_has_no_dropout_and_adds_up(config: Config, on_one_device):
    data, state, _ = on_one_device
    whole = eval_step(spec_of(config), state.params, data[0])
    halves = [
        eval_step(spec_of(config), state.params, {name: array[part] for name, array in data[0].items()})
        for part in (slice(0, 8), slice(8, 16))
    ]
    added = jax.tree.map(jnp.add, *halves)
    for name, (total, weight) in whole.items():
        assert float(total) == pytest.approx(float(added[name][0]), rel=1e-5)
        assert float(weight) == float(added[name][1])


@pytest.mark.long
def test_dropout_changes_with_the_step_and_with_nothing_else(config: Config, on_one_device):
    data, _, expected = on_one_device
    _, again = run(config, data)
    assert again == expected
    fixed = replace(config, optimizer__learning_rate=1e-30)
    _, metrics = run(fixed, [data[0]] * 3)
    assert len({values["loss"] for values in metrics}) == 3
    _, metrics = run(without_dropout(fixed), [data[0]] * 3)
    assert len({values["loss"] for values in metrics}) == 1


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_moments_are_float32_whatever_the_compute_type(config: Config, on_one_device, dtype):
    data, _, expected = on_one_device
    state, metrics = run(replace(config, model__dtype=dtype), data)
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype.name for leaf in floats} == {"float32"}
    assert metrics[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.02)


def test_initial_weights_are_a_truncated_normal(config: Config):
    params = init_state(spec_of(config)).params
    kernel = np.asarray(params["encoder"]["layers"]["query"]["kernel"])
    assert np.abs(kernel).max() <= 2 * config.model.initializer_range
    assert kernel.std() == pytest.approx(0.88 * config.model.initializer_range, rel=0.05)
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.long
def test_initial_weights_do_not_depend_on_the_mesh(config: Config):
    expected = run(config, [])[0]
    for mesh in MESHES[1:]:
        state = run(config, [], mesh)[0]
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
            assert (np.asarray(a) == np.asarray(b)).all()


def test_parameters_and_moments_lie_as_the_rules_say(config: Config):
    state, _ = run(config, [], (2, 2, 2))
    query = state.params["encoder"]["layers"]["query"]["kernel"]
    assert query.sharding.spec == P(None, "fsdp", "tensor")
    assert query.addressable_shards[0].data.shape == (2, 16, 16)
    moment = optax.tree_utils.tree_get(state.opt_state, "mu")["encoder"]["layers"]["query"]["kernel"]
    assert moment.sharding.spec == query.sharding.spec
    assert state.params["encoder"]["embeddings"]["word"].sharding.spec == P("tensor", "fsdp")
    scale = state.params["encoder"]["layers"]["attention_norm"]["scale"]
    assert scale.sharding.is_fully_replicated, "a vector is not worth a gather"


@pytest.mark.long
def test_with_fsdp_gradients_are_summed_in_parts(config: Config):
    """In the compiled text: no loop over microbatches carries the whole gradient of a matrix."""
    config = replace(config, train__microbatches=2, mesh__fsdp=8)
    spec, mesh = spec_of(config), sharding.make_mesh(config.mesh)
    arrays = batch_spec(config.data, rows=config.train.global_batch_size)
    with jax.set_mesh(mesh):
        step = jit_train_step(spec, mesh, spec.stages[-1])
        lowered = step.lower(abstract_state(spec, mesh), sharding.abstract_batch(arrays, mesh))
    loops = [line for line in lowered.compile().as_text().splitlines() if " while(" in line]
    V, D, F = config.model.padded_vocab_size, config.model.hidden_size, config.model.intermediate_size
    over_parts = [line.partition(" while(")[0] for line in loops if f"f32[{V},{D // 8}]" in line]
    assert len(over_parts) == 1, "the loop over microbatches"
    assert f"f32[2,{D // 8},{F}]" in over_parts[0], "the sum of a layer's gradient"
    assert f"f32[2,{D},{F}]" not in over_parts[0]


def test_a_rule_conflict_is_an_error():
    assert sharding.spec("batch", None) == P(("data", "fsdp"), None)
    with pytest.raises(ValueError, match="used twice"):
        sharding.spec("mlp", "heads")
    with pytest.raises(KeyError):
        sharding.spec("no such axis")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__global_batch_size": 12}, r"train\.global_batch_size 12 is not divisible by 8"),
        ({"train__microbatches": 4}, r"train\.global_batch_size 16 is not divisible by 32"),
        ({"mesh__data": 3}, r"mesh\.data 3 x mesh\.fsdp 1 x mesh\.tensor 1 does not cover the 8 device"),
        ({"mesh__tensor": 8}, r"model\.num_attention_heads 4 is not divisible by mesh\.tensor 8"),
    ],
)
def test_a_run_that_does_not_fit_the_devices_is_refused_by_field(config: Config, change, message):
    config = replace(config, **change)
    with pytest.raises(ValueError, match=message):
        check_fits(spec_of(config), sharding.make_mesh(config.mesh))
