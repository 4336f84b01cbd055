"""A larger model begins with the weights of a smaller one: laid around the centre, layers spread out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.config import Config, ModernBertConfig
from bert_jax.interop.initialize import start_from
from bert_jax.interop.tiling import check_sizes, tile
from bert_jax.objectives import mlm
from bert_jax.training.network import Network, Parameter, init_params, parameters
from bert_jax.training.step import init_state
from data_pipeline.errors import UserError
from tests.helpers.configs import replace, spec_of
from tests.helpers.steps import mesh_of
from tests.parity.test_modernbert import write

SMALL = ModernBertConfig(
    vocab_size=700,
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=64,
)
LARGE = dataclasses.replace(
    SMALL, hidden_size=32, num_attention_heads=4, intermediate_size=18, num_hidden_layers=7
)


def of(*axes: str | None, shape: tuple[int, ...]) -> Parameter:
    depth = tuple(range(1, shape[0] + 1)) if axes[0] == "layers" else 1
    return Parameter(shape, axes, "name", transposed=False, decay=True, depth=depth)


def test_the_smaller_matrix_lies_in_the_middle_and_goes_on_at_the_edges():
    found = tile(np.arange(1, 5), of("embed", shape=(8,)), head_dim=1)
    assert found.tolist() == [3, 4, 1, 2, 3, 4, 1, 2]
    square = np.arange(16).reshape(4, 4)
    large = np.asarray(tile(square, of("embed", "mlp", shape=(6, 8)), head_dim=1))
    assert (large[1:5, 2:6] == square).all()


def test_heads_stay_in_one_piece():
    """Three heads of two from two: with one column before it, each would be cut."""
    assert tile(np.arange(4), of("heads", shape=(6,)), head_dim=2).tolist() == [0, 1, 2, 3, 0, 1]


def test_parts_of_a_fused_product_are_tiled_each_by_itself():
    fused = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    found = np.asarray(tile(fused, of("embed", "parts", "heads", shape=(4, 3, 8)), head_dim=2))
    assert (found[1:3, :, 2:6] == fused).all()


def test_layers_are_spread_in_their_order():
    found = tile(np.arange(3)[:, None], of("layers", "embed", shape=(6, 1)), head_dim=1)
    assert found[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_layer_begins_as_one_of_its_kind():
    """Stacked layers 2 to 7 from 2 to 4: of a period of three, the fourth layer and the seventh see all."""
    parameter = of("layers", "embed", shape=(6, 1))
    parameter = dataclasses.replace(parameter, depth=(2, 3, 4, 5, 6, 7))
    found = tile(np.asarray([2, 3, 4])[:, None], parameter, head_dim=1, period=3)
    assert found[:, 0].tolist() == [2, 3, 4, 2, 3, 4]


@pytest.mark.long
def test_a_larger_model_starts_from_the_weights_of_a_smaller_one(config: Config, tmp_path: Path):
    """Every parameter of it, through a folder of Hugging Face."""
    small = Network(SMALL, mlm, mlm.Config())
    params = init_params(small, jax.random.key(3))
    write(tmp_path, small, params)
    config = replace(config, model=LARGE, objective=mlm.Config(), init__source=str(tmp_path), init__tile=True)
    spec = spec_of(config)
    mesh = mesh_of((1, 1, 1))
    with jax.set_mesh(mesh):
        found = start_from(tmp_path, spec, mesh, init_state(spec)).params
    for (path, parameter), array in zip(
        jax.tree.leaves_with_path(parameters(spec.network)), jax.tree.leaves(found), strict=True
    ):
        source = params
        for key in path:
            source = source[key.key]
        rows = SMALL.vocab_size if "vocab" in parameter.logical_axes else None
        expected = np.asarray(tile(source, parameter, head_dim=8, period=3))
        assert array.shape == parameter.shape
        assert (np.asarray(array)[:rows] == expected[:rows]).all(), path
    plain = replace(config, init__tile=False)
    with pytest.raises(UserError, match="have hidden_size 16, not 32"), jax.set_mesh(mesh):
        start_from(tmp_path, spec_of(plain), mesh, init_state(spec))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64, "num_attention_heads": 8}, "hidden_size of the source is 64, more than"),
        ({"num_attention_heads": 4}, "heads of the source have 4 dimensions, those of the model 8"),
    ],
)
def test_what_is_larger_or_has_other_heads_is_refused(changes: dict[str, int], message: str):
    with pytest.raises(UserError, match=message):
        check_sizes(dataclasses.replace(SMALL, **changes), LARGE)
