"""A shallower model begins with some layers of a deeper one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.config import Config, EncoderConfig, InitConfig, ModelConfig, ModernBertConfig
from bert_jax.interop import huggingface
from bert_jax.interop.initialize import source_model, start_from
from bert_jax.objectives import mlm
from bert_jax.training.step import init_state
from data_pipeline.errors import UserError
from tests.helpers.configs import CPU, replace, spec_of
from tests.helpers.steps import mesh_of
from tests.helpers.teachers import lively_params, network_of
from tests.parity.test_modernbert import write

MODERN = ModernBertConfig(
    vocab_size=700,
    hidden_size=16,
    num_hidden_layers=8,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=64,
)


def started(config: Config, deep: EncoderConfig, folder: Path, layers: tuple[int, ...], **changes: object):
    """The tensors of a run that starts so, and those of its source."""
    source = network_of(deep)
    params = lively_params(source)
    write(folder, source, params)
    model = dataclasses.replace(deep, num_hidden_layers=len(layers))
    config = replace(
        config,
        **{"model": model, "objective": mlm.Config()} | changes,
        init=InitConfig(source=str(folder), layers=layers),
    )
    spec, mesh = spec_of(config), mesh_of((1, 1, 1))
    with jax.set_mesh(mesh):
        found = start_from(folder, spec, mesh, init_state(spec)).params
    return huggingface.to_tensors(spec.network, found), huggingface.to_tensors(source, params)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_each_layer_begins_as_the_one_that_is_named_for_it(config: Config, tmp_path: Path, kind: str):
    """The others stay away, and what is in no layer is as it was."""
    layers = (0, 2, 3) if kind == "bert" else (0, 4, 2, 6)
    deep = dataclasses.replace(config.model, num_hidden_layers=5) if kind == "bert" else MODERN
    found, source = started(config, deep, tmp_path, layers)
    layer = "bert.encoder.layer" if kind == "bert" else "model.layers"
    outside = {name for name in source if not name.startswith(layer)}
    assert outside < found.keys()
    assert all(np.array_equal(found[name], source[name]) for name in outside)
    for place, number in enumerate(layers):
        of_layer = [name for name in found if name.startswith(f"{layer}.{place}.")]
        assert of_layer
        for name in of_layer:
            other = name.replace(f"{layer}.{place}.", f"{layer}.{number}.", 1)
            assert np.array_equal(found[name], source[other]), name
    assert not [name for name in found if name.startswith(f"{layer}.{len(layers)}.")]


def test_a_model_that_is_the_sources_has_as_many_layers_as_are_named(config: Config, tmp_path: Path):
    deep = dataclasses.replace(config.model, num_hidden_layers=5)
    write(tmp_path, network_of(deep), lively_params(network_of(deep)))
    asked = replace(
        config,
        model=ModelConfig(dtype="float32"),
        objective=mlm.Config(),
        init=InitConfig(source=str(tmp_path), layers=(0, 4)),
    )
    assert source_model(asked, CPU).num_hidden_layers == 2


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((0, 5), "init.layers has 5, but the source has the layers 0 to 4"),
        ((0, 1, 2), "init.layers has 3 numbers, but model.num_hidden_layers is 2: give one a layer"),
    ],
)
def test_layers_that_are_not_there_are_refused(
    config: Config, tmp_path: Path, layers: tuple[int, ...], message: str
):
    deep = dataclasses.replace(config.model, num_hidden_layers=5)
    with pytest.raises(UserError, match=message):
        started(config, deep, tmp_path, layers, model=config.model)


@pytest.mark.long
@pytest.mark.parametrize("layers", [(0, 2), (3, 1), (0, 1, 2, 0)], ids=str)
def test_a_layer_of_another_kind_is_refused(config: Config, tmp_path: Path, layers: tuple[int, ...]):
    """A window where all is seen, or the first layer, which lacks a norm, for another one."""
    with pytest.raises(UserError, match=r"init\.layers has \d for layer \d, which is of another kind"):
        started(config, MODERN, tmp_path, layers)


def test_other_sizes_are_refused_as_ever(config: Config, tmp_path: Path):
    deep = dataclasses.replace(config.model, num_hidden_layers=5)
    with pytest.raises(UserError, match="have hidden_size 32, not 64"):
        started(config, deep, tmp_path, (0, 1), model=dataclasses.replace(config.model, hidden_size=64))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (0, -1)}, "layers are counted from 0"),
        ({"layers": (0, 1), "tile": True}, "give one of the two"),
    ],
)
def test_values_that_cannot_work_are_refused(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        InitConfig(source="runs/large", **fields)
