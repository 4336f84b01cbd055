"""Replaced-token detection: what is sampled, what counts, and which gradient goes where."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config, ElectraConfig, RtdConfig
from bert_jax.models import encoder_of
from bert_jax.objectives import rtd
from bert_jax.objectives.mlm import DecoderInputs
from bert_jax.objectives.objective import mean
from bert_jax.ops.attention import PLAIN
from bert_jax.training import network
from bert_jax.training.network import Network, Params, flops, init_params
from bert_jax.training.step import eval_step
from data_pipeline.errors import UserError
from tests.helpers.configs import electra_of, replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.steps import run
from tests.training.test_network import compile_step


@pytest.fixture(scope="module")
def electra(config: Config) -> Config:
    """The tiny run with a discriminator of 4 heads and a generator of 2; dropout, packed rows."""
    settings = RtdConfig(generator_size=0.5, embeddings="gradient_disentangled")
    return replace(config, model=electra_of(config.model), objective=settings)


def with_embeddings(config: Config, kind: str) -> Config:
    return replace(config, objective__embeddings=kind)


def lively(found: Network) -> Params:
    params = init_params(found, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)


# Sizes


@pytest.mark.parametrize(
    ("sizes", "part", "expected"),
    [  # of google-research/electra: small, base, large
        ((256, 4, 1024), 1 / 4, (64, 1, 256)),
        ((768, 12, 3072), 1 / 3, (256, 4, 1024)),
        ((1024, 16, 4096), 1 / 4, (256, 4, 1024)),
        ((768, 12, 3072), 0.333, (256, 4, 1024)),
        ((768, 12, 3072), 1.0, (768, 12, 3072)),
    ],
)
def test_a_generator_is_a_part_of_the_heads_and_as_wide_as_they_are(sizes: Any, part: float, expected: Any):
    names = ("hidden_size", "num_attention_heads", "intermediate_size")
    model = ElectraConfig(**dict(zip(names, sizes, strict=True)))
    found = rtd.generator_config(RtdConfig(generator_size=part), model)
    assert tuple(getattr(found, name) for name in names) == expected
    assert (found.embedding_size, found.num_hidden_layers) == (128, 12)


@pytest.mark.parametrize(("size", "advice"), [(0.3, "4 are 0.3333"), (0.01, "1 are 0.08333")])
def test_a_part_of_a_head_is_refused(size: float, advice: str):
    with pytest.raises(UserError, match=rf"^objective\.generator_size {size} of 12 heads is .*: {advice}$"):
        rtd.generator_config(
            RtdConfig(generator_size=size), ElectraConfig(hidden_size=768, num_attention_heads=12)
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generator_size": 1.5}, "objective.generator_size is 1.5; .* no larger than its discriminator$"),
        ({"generator_size": 0.0}, "objective.generator_size is 0.0; it must be greater than 0"),
        ({"rtd_weight": 0.0}, "objective.rtd_weight is 0.0; it must be positive"),
    ],
)
def test_what_cannot_be_is_one_line(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        RtdConfig(**fields)


def test_an_encoder_without_the_head_is_refused(config: Config):
    with pytest.raises(
        UserError, match=r"^bert has no head for replaced tokens in Transformers: use Electra"
    ):
        spec_of(replace(config, objective=RtdConfig()))


def test_a_mesh_that_does_not_divide_the_generator_is_refused(electra: Config):
    with pytest.raises(UserError, match=r"the generator's .* num_attention_heads 2 is not divisible by mesh"):
        run(electra, [], (1, 1, 4))


# Samples


@pytest.mark.long
@pytest.mark.parametrize("prng", ["threefry2x32", "rbg"])
def test_a_sample_is_a_function_of_the_key_of_its_row_and_of_its_column(prng: str):
    keys = jax.random.split(jax.random.key(0, impl=prng), 6)
    inputs = DecoderInputs(jnp.zeros((6, 4, 1)), jnp.zeros((1000, 1)), jnp.zeros(1000))
    positions = jnp.tile(jnp.array([[3, 5, 8, 13]]), (6, 1))
    drawn = rtd.samples(inputs, positions, keys)
    assert len(set(np.asarray(drawn).ravel().tolist())) > 20
    cut = DecoderInputs(inputs.hidden_BxKxD[:2, :3], *inputs[1:])
    again = rtd.samples(cut, positions[4:, ::-1][:, :3], keys[4:])
    np.testing.assert_array_equal(again, drawn[4:, ::-1][:, :3])


def test_masked_tokens_give_way_to_samples_and_the_original_is_not_replaced():
    batch = {
        "token_ids": jnp.array([[1, 4, 50, 4, 2, 0], [1, 4, 60, 70, 2, 0]]),  # 4 is [MASK]
        "mlm_positions": jnp.array([[1, 3, 0], [1, 2, 4]]),
        "mlm_targets": jnp.array([[40, 41, 0], [42, 60, 0]]),
        "mlm_weights": jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
    }
    corrupted, is_replaced = rtd.corrupt(batch, jnp.array([[40, 99, 77], [98, 97, 77]]))
    assert corrupted["token_ids"].tolist() == [[1, 40, 50, 99, 2, 0], [1, 98, 97, 70, 2, 0]]
    assert np.argwhere(is_replaced).tolist() == [[0, 3], [1, 1], [1, 2]]


# What counts


def test_the_loss_is_the_cross_entropy_of_all_tokens_and_no_padding():
    logits = np.array([[2.0, -1.0, 0.5], [-3.0, 1.0, 9.0]], np.float32)
    replaced = np.array([[1, 0, 0], [0, 1, 0]], bool)
    inside = np.array([[1, 1, 1], [1, 1, 0]], bool)
    sums = rtd.replaced_sums(jnp.array(logits), jnp.array(replaced), is_token_BxS=jnp.array(inside))
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    nll = -np.log(np.where(replaced, p, 1 - p))[inside]
    assert float(mean(sums["rtd_loss"])) == pytest.approx(nll.mean(), rel=1e-6)
    assert float(mean(sums["rtd_accuracy"])) == pytest.approx(4 / 5)
    assert [float(x) for x in sums["replaced_accuracy"]] == [2, 2]


@pytest.mark.long
def test_padding_does_not_count(electra: Config, batches):
    spec, (batch,) = spec_of(electra), batches(1)
    padding = batch["segment_ids"] == 0
    assert padding.any()
    params = lively(spec.network)
    step = jax.jit(functools.partial(eval_step, spec))
    one = step(params, batch)
    other = step(params, batch | {"token_ids": np.where(padding, 77, batch["token_ids"])})
    for name, pair in one.items():
        np.testing.assert_allclose(pair, other[name], rtol=1e-6, err_msg=name)
    assert float(one["rtd_loss"][1]) == (~padding).sum()


# Gradients


def size(gradient: Any) -> float:
    return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(gradient)))


@pytest.fixture(scope="module", params=["shared", "gradient_disentangled", "apart"])
def gradients(electra: Config, request: pytest.FixtureRequest) -> tuple[str, dict[str, Params]]:
    """Of each loss by the parameters, with these embeddings."""
    found = spec_of(with_embeddings(electra, request.param)).network
    (batch,) = read_batches(electra, 1)
    rows = {name: x[:2] for name, x in batch.items()}

    @jax.jit
    def both(params: Params) -> Any:
        sums = lambda p: {  # noqa: E731
            n: s for n, (s, _) in network.sums(found, p, rows, kernels=PLAIN).items() if "loss" in n
        }
        return jax.jacrev(sums)(params)

    return request.param, both(lively(found))


@pytest.mark.long
def test_no_gradient_goes_through_the_samples(gradients: Any):
    """The generator learns from its own loss alone, and the discriminator from its own."""
    _, found = gradients
    of_mlm, of_rtd = found["mlm_loss"], found["rtd_loss"]
    assert size(of_rtd["objective"]["generator"]) == 0 < size(of_mlm["objective"]["generator"])
    for part in ("encoder", "layers"), ("objective", "discriminator"):
        assert size(of_mlm[part[0]][part[1]]) == 0 < size(of_rtd[part[0]][part[1]])


@pytest.mark.long
def test_embeddings_learn_from_whom_they_should(gradients: Any):
    kind, found = gradients
    of_mlm, of_rtd = found["mlm_loss"], found["rtd_loss"]
    for name in ("word", "position", "token_type"):
        table = {loss: size(found[loss]["encoder"]["embeddings"][name]) > 0 for loss in found}
        match kind:
            case "shared":
                assert table == {"mlm_loss": True, "rtd_loss": True}
            case "gradient_disentangled":  # He et al. 2021, section 3.3
                assert table == {"mlm_loss": True, "rtd_loss": False}
                added = "objective", "added", name
                assert size(of_mlm[added[0]][added[1]][name]) == 0 < size(of_rtd[added[0]][added[1]][name])
            case "apart":
                assert table == {"mlm_loss": False, "rtd_loss": True}


@pytest.mark.long
def test_tables_begin_as_those_of_the_generator(electra: Config, batches):
    """So that disentangled embeddings have at first the losses of shared ones, with the norm of each new."""
    (batch,) = batches(1)
    losses = []
    for kind in ("shared", "gradient_disentangled"):
        found = spec_of(with_embeddings(electra, kind)).network
        params = init_params(found, jax.random.key(0))
        losses.append(
            {n: float(mean(p)) for n, p in network.sums(found, params, batch, kernels=PLAIN).items()}
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# However it is computed


@pytest.fixture(scope="module")
def data(electra: Config) -> list:
    return read_batches(electra, 3)


@pytest.fixture(scope="module")
def expected(electra: Config, data: list) -> list[dict]:
    return run(electra, data)[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "mesh"),
    [
        ({"train__microbatches": 2}, (2, 2, 2)),
        pytest.param({"model__scan_unroll": 2, "model__remat": "dots"}, (2, 2, 1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_cut_of_a_batch_gives_the_same_steps(
    electra: Config, data: list, expected: list[dict], changes: dict, mesh: tuple[int, int, int]
):
    """With dropout and samples: both follow from seed, step, row and column."""
    _, found = run(replace(electra, **changes), data, mesh)
    for one, other in zip(found, expected, strict=True):
        for name in ("mlm_loss", "rtd_loss", "replaced_accuracy", "grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=2e-5, rel=1e-4), name


@pytest.mark.long
def test_the_losses_have_their_weights(expected: list[dict]):
    for metrics in expected:
        assert metrics["loss"] == pytest.approx(metrics["mlm_loss"] + 50 * metrics["rtd_loss"], rel=1e-6)


@pytest.mark.slow
def test_optimizers_know_its_parameters(electra: Config, data: list):
    asked = replace(electra, optimizer__name="muon", optimizer__layer_decay=0.9)
    _, found = run(asked, data[:2])
    assert all(np.isfinite(m["loss"]) and not m["skipped"] for m in found)


@pytest.mark.long
def test_its_cost_counts_the_generator(electra: Config):
    """As the compiler does; unrolled, or it counts one layer only."""
    wide = {"hidden_size": 256, "intermediate_size": 1024, "embedding_size": 256, "scan_unroll": 2}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = dataclasses.replace(electra.model, **wide, **rates)
    spec = spec_of(with_embeddings(replace(electra, model=model), "shared"))
    assert spec.network.generator is not None
    assert flops(spec.network.generator, spec.rows) > 0.2 * flops(spec.network, spec.rows)
    # Beyond the matrix products there is the noise of the samples.
    assert 1.0 <= compile_step(spec).cost_analysis()["flops"] / spec.step_flops < 1.2


def test_the_generator_is_of_the_family(electra: Config):
    generator = spec_of(electra).network.generator
    assert generator is not None
    assert encoder_of(generator.model) is encoder_of(electra.model)
    assert generator.huggingface_class == "ElectraForMaskedLM"
    assert spec_of(electra).network.huggingface_class == "ElectraForPreTraining"
