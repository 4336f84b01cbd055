"""Objectives: which rows choose them, what they train, and their losses against NumPy."""

from __future__ import annotations

import typing

import jax
import numpy as np
import pytest
import scipy.special

from bert_jax.config import BertConfig, Config, MlmConfig, MlmNspConfig, MlmSopConfig, ObjectiveConfig
from bert_jax.objectives import OBJECTIVES, mlm, mlm_nsp, mlm_sop, objective_for, retromae, rtd
from bert_jax.objectives.distillation import Distillation
from bert_jax.objectives.objective import Objective, mean
from bert_jax.ops.attention import PLAIN
from bert_jax.training import network
from bert_jax.training.network import Network, Params, init_params, modules, parameters
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from tests.helpers.configs import model_for, replace, spec_of

INPUT_FORMATS = typing.get_args(typing.get_type_hints(DataConfig)["input_format"])
DEFAULTS = {
    "next_sentence": mlm_nsp,
    "sentence_order": mlm_sop,
    "full_sentences": mlm,
    "documents": mlm,
}


# A distillation needs a teacher: test_distillation.py.
@pytest.fixture(
    params=[found for found in OBJECTIVES if found != Distillation()],
    ids=lambda objective: objective.Config.kind,
)
def objective(request: pytest.FixtureRequest) -> Objective:
    return request.param


def network_of(config: Config, objective: Objective) -> Network:
    assert isinstance(config.model, BertConfig)
    return Network(model_for(objective, config.model), objective, objective.Config())


def lively_params(found: Network) -> Params:
    """Initial parameters moved by noise: no bias is 0, no logit near another."""
    params = init_params(found, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)


@pytest.mark.parametrize("input_format", INPUT_FORMATS)
def test_rows_choose_their_objective(input_format: str):
    assert objective_for(None, input_format=input_format) == (
        DEFAULTS[input_format],
        DEFAULTS[input_format].Config(),
    )


@pytest.mark.parametrize("input_format", INPUT_FORMATS)
def test_who_asks_for_an_objective_gets_it(input_format: str):
    assert objective_for(MlmConfig(), input_format=input_format) == (mlm, MlmConfig())


@pytest.mark.parametrize("asked", [MlmNspConfig(), MlmSopConfig()], ids=lambda asked: asked.kind)
def test_pairs_are_not_learned_from_rows_without_pairs(config: Config, asked: ObjectiveConfig):
    with pytest.raises(
        UserError, match=rf"objective {asked.kind} wants the sentence pairs of data\.input_format"
    ):
        spec_of(replace(config, data__input_format="documents", objective=asked))


def test_masked_tokens_alone_train_no_head_for_pairs(config: Config):
    heads = {found: set(parameters(network_of(config, found))["objective"]) for found in OBJECTIVES}
    pairs = {"mlm", "pooler", "nsp"}
    assert heads == {
        mlm: {"mlm"},
        Distillation(): {"mlm"},
        mlm_nsp: pairs,
        mlm_sop: pairs,
        rtd: {"discriminator", "generator"},
        retromae: {"mlm", "decoder"},
    }


@pytest.mark.long
@pytest.mark.parametrize("objective", [mlm, mlm_nsp, mlm_sop], ids=lambda objective: objective.Config.kind)
def test_losses_are_those_of_numpy(config: Config, objective: Objective, batches):
    found = network_of(config, objective)
    params, (batch,) = lively_params(found), batches(1)
    sums = network.sums(found, params, batch, kernels=PLAIN)

    both = modules(found, params)
    hidden = both.encoder.encode(batch, kernels=PLAIN)
    taken = np.take_along_axis(np.asarray(hidden), batch["mlm_positions"][..., None], axis=1)
    head = both.objective
    table, bias = np.asarray(both.encoder.word_embeddings[...]), np.asarray(head.mlm.bias[...])
    logits = (np.asarray(head.mlm(taken)) @ table.T + bias)[..., : found.model.vocab_size]
    expected = {"mlm": (logits, batch["mlm_targets"], batch["mlm_weights"])}
    if objective is not mlm:
        first = np.take_along_axis(np.asarray(hidden), batch["cls_positions"][..., None], axis=1)
        name = "nsp" if objective is mlm_nsp else "sop"
        expected[name] = (head.nsp(head.pooler(first)), batch["nsp_labels"], batch["nsp_weights"])

    assert sums.keys() == {f"{name}_{kind}" for name in expected for kind in ("loss", "accuracy")}
    for name, (logits, targets, weights) in expected.items():
        log_probs = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
        losses = -np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        hits = log_probs.argmax(-1) == targets
        np.testing.assert_allclose(mean(sums[f"{name}_loss"]), np.average(losses, weights=weights), rtol=1e-5)
        np.testing.assert_allclose(
            mean(sums[f"{name}_accuracy"]), np.average(hits, weights=weights), rtol=1e-6
        )


@pytest.mark.long
def test_the_sums_of_two_halves_are_those_of_the_whole(config: Config, objective: Objective, batches):
    found = network_of(config, objective)
    params, (batch,) = lively_params(found), batches(1)
    rows = len(batch["token_ids"])
    cut = rows // 4  # halves of unequal size and weight
    parts = [{name: x[where] for name, x in batch.items()} for where in (slice(cut), slice(cut, rows))]
    whole, first, second = (network.sums(found, params, part, kernels=PLAIN) for part in (batch, *parts))
    for name in whole:
        np.testing.assert_allclose(whole[name], np.add(first[name], second[name]), rtol=1e-5, err_msg=name)


@pytest.mark.long
def test_what_is_minimized_and_shown_is_what_is_summed(config: Config, objective: Objective, batches):
    found = network_of(config, objective)
    (batch,) = batches(1)
    sums = jax.eval_shape(lambda: network.sums(found, lively_params(found), batch, kernels=PLAIN))
    losses = {name for name in sums if name.endswith("_loss")}
    assert objective.weights(batch).keys() == losses
    assert {metric.name for metric in objective.metrics(found.settings)} - {"loss"} <= sums.keys()
