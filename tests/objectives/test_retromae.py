"""RetroMAE: what the decoder sees, and that all it knows of a text is in its first token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import transformers

from bert_jax.config import Config, ElectraConfig, RetroMaeConfig
from bert_jax.interop.export import export
from bert_jax.models import encoder_of
from bert_jax.objectives import retromae
from bert_jax.run.pretrain import pretrain
from bert_jax.training import network
from bert_jax.training.network import Network, Params, init_params, parameters
from data_pipeline.batch import unpack
from data_pipeline.errors import UserError
from tests.helpers.configs import replace
from tests.helpers.data import read_batches
from tests.helpers.runs import metrics
from tests.helpers.steps import run

SETTINGS = RetroMaeConfig()


@pytest.fixture(scope="module")
def batch(config: Config) -> dict[str, jax.Array]:
    """Packed rows of the tiny corpus."""
    (found,) = read_batches(config, 1)
    return {name: jnp.asarray(array) for name, array in unpack(found).items()}


@pytest.fixture(scope="module")
def found(config: Config) -> Network:
    return Network(config.model, retromae, SETTINGS)


@pytest.fixture(scope="module")
def params(found: Network) -> Params:
    params = init_params(found, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def test_a_token_sees_the_first_one_and_some_others_of_its_sequence_and_never_itself():
    segment_ids = jnp.array([[1] * 40 + [2] * 20 + [0] * 4])
    is_first = jnp.zeros((1, 64), bool).at[0, jnp.array([0, 40])].set(True)
    (sees,) = np.asarray(
        retromae.seen(segment_ids, is_first, jax.random.split(jax.random.key(3), 1), rate=0.5)
    )
    assert not sees.diagonal().any()
    assert sees[1:40, 0].all()
    assert sees[41:60, 40].all()
    assert not sees[:40, 40:].any()
    assert not sees[40:60, :40].any()
    others = sees[1:40, 1:40][~np.eye(39, dtype=bool)]
    assert 0.4 < others.mean() < 0.6
    assert (sees[1] != sees[2]).any(), "each sees a sample of its own"


@pytest.mark.long
def test_the_tokens_before_they_were_masked(batch: dict[str, jax.Array]):
    ids = np.asarray(retromae.original_ids(batch))
    expected = np.array(batch["token_ids"])
    for row, column, target, weight in zip(
        *np.nonzero(batch["mlm_weights"])[:1],
        batch["mlm_positions"][batch["mlm_weights"] > 0].tolist(),
        batch["mlm_targets"][batch["mlm_weights"] > 0].tolist(),
        batch["mlm_weights"][batch["mlm_weights"] > 0].tolist(),
        strict=True,
    ):
        assert weight
        expected[row, column] = target
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.long
def test_all_that_the_decoder_has_of_the_encoder_is_the_first_token(found: Network, params: Params):
    """No gradient reaches any other hidden state."""
    both = network.modules(found, params)
    rng = np.random.default_rng(0)
    S, D = 12, found.model.hidden_size
    hidden = jnp.asarray(rng.normal(size=(1, S, D)), jnp.float32)
    sees = ~jnp.eye(S, dtype=bool)[None]

    def rebuilt(first: jax.Array, words: jax.Array) -> jax.Array:
        return both.objective.decoder(first, words, positions_BxS=jnp.arange(S)[None], sees_BxSxS=sees)

    first = jnp.broadcast_to(hidden[:, :1], hidden.shape)
    words = hidden.at[:, 0].set(first[:, 0])
    jacobian = jax.jacobian(lambda words: rebuilt(first, words)[0, 5].sum())(words)
    assert np.abs(jacobian[0, 5]).max() == 0, "a token is not rebuilt from itself"
    assert np.abs(jacobian[0, 4]).max() > 0
    assert np.abs(jax.grad(lambda first: rebuilt(first, words)[0, 5].sum())(first)[0, 5]).max() > 0


@pytest.mark.long
def test_the_decoder_is_that_of_numpy(found: Network, params: Params):
    both = network.modules(found, params)
    decoder: Any = params["objective"]["decoder"]
    rng = np.random.default_rng(0)
    S, D = 7, found.model.hidden_size
    first, words = (rng.normal(size=(1, S, D)) for _ in range(2))
    first = np.broadcast_to(first[:, :1], first.shape)
    words[:, 0] = first[:, 0]
    sees = rng.random((1, S, S)) < 0.5
    sees[:, :, 0] = True
    positions = np.arange(S)[None]
    found_BxSxD = both.objective.decoder(
        jnp.float32(first), jnp.float32(words), positions_BxS=positions, sees_BxSxS=jnp.array(sees)
    )

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ np.float64(decoder[name]["kernel"]) + np.float64(decoder[name]["bias"])

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
        return x * np.float64(decoder[name]["scale"]) + np.float64(decoder[name]["bias"])

    places = np.float64(decoder["positions"])[:S]
    query, keys = first[0] + places, words[0] + places
    keys[0] = words[0, 0]
    heads = found.model.num_attention_heads
    attended = []
    for q, k, v in zip(
        *(
            np.split(dense(name, x), heads, axis=-1)
            for name, x in (("query", query), ("key", keys), ("value", keys))
        ),
        strict=True,
    ):
        logits = np.where(sees[0], q @ k.T / np.sqrt(D / heads), -np.inf)
        attended.append(scipy.special.softmax(logits, axis=-1) @ v)
    x = norm("attention_norm", query + dense("attention_output", np.concatenate(attended, axis=-1)))
    inner = dense("intermediate", x)
    inner = inner * 0.5 * (1 + scipy.special.erf(inner / np.sqrt(2)))
    np.testing.assert_allclose(found_BxSxD[0], norm("output_norm", x + dense("output", inner)), atol=2e-5)


@pytest.mark.slow
def test_any_cut_of_a_batch_gives_the_same_loss(config: Config):
    asked = replace(config, objective=SETTINGS, train__global_batch_size=16)
    batches = read_batches(asked, 2)
    _, expected = run(asked, batches)
    _, losses = run(replace(asked, train__microbatches=2), batches, (4, 2, 1))
    for one, other in zip(losses, expected, strict=True):
        for name in ("loss", "mlm_loss", "decoder_loss", "decoder_accuracy"):
            assert one[name] == pytest.approx(other[name], rel=2e-5), name


@pytest.mark.long
def test_it_learns_and_its_export_is_a_masked_language_model(config: Config, tmp_path: Any):
    asked = replace(config, objective=SETTINGS, train__steps=12)
    assert pretrain(asked, workdir=tmp_path / "run")
    losses = [line["decoder_loss"] for line in metrics(tmp_path / "run") if line["split"] == "train"]
    assert losses[-1] < losses[0]
    export(tmp_path / "run", out=tmp_path / "out")
    _, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_what_cannot_be_is_one_line():
    with pytest.raises(UserError, match=r"objective\.decoder_rate is 0\.0; it must be greater than 0"):
        RetroMaeConfig(decoder_rate=0.0)
    electra = ElectraConfig()
    with pytest.raises(UserError, match=r"model\.embedding_size 128 must be model\.hidden_size 256"):
        parameters(Network(electra, retromae, SETTINGS))
    assert retromae.refuses(SETTINGS, encoder_of(electra), None) is None
