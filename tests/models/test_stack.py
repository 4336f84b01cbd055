"""Layers in a row: however they are run, each has its own weights, place and kind, and its own gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config
from bert_jax.models.stack import restack, run_layers, take_apart
from bert_jax.training.step import abstract_state, jit_init_state
from tests.helpers.configs import replace, spec_of
from tests.helpers.steps import mesh_of

LAYERS, SIZE = 7, 4


def layer(x_D: jax.Array, params: Any, index: Any, kind: int) -> tuple[jax.Array, Any]:
    """Something that depends on all that it is given."""
    return jnp.tanh(x_D @ params["kernel"] + params["bias"] * (index + 1)) * (kind + 1), (x_D, kind)


def stack() -> dict[str, jax.Array]:
    return {
        "kernel": jax.random.normal(jax.random.key(0), (LAYERS, SIZE, SIZE)),
        "bias": jax.random.normal(jax.random.key(1), (LAYERS, SIZE)),
    }


def one_by_one(params: dict[str, jax.Array], *, period: int) -> tuple[jax.Array, list[Any]]:
    """The reference: a loop over the layers."""
    x_D, kept = jnp.ones(SIZE), []
    for i in range(LAYERS):
        one = {name: leaf[i] for name, leaf in params.items()}
        x_D, keeps = layer(x_D, one, i, i % period)
        kept.append(keeps)
    return x_D, kept


@pytest.mark.long
@pytest.mark.parametrize("period", [1, 2, 7, 9])
@pytest.mark.parametrize(
    ("apart", "unroll", "remat"),
    [(False, 1, "none"), (False, 4, "full"), (True, 99, "none"), (True, 9, "dots")],
)
def test_each_layer_has_its_own(period: int, apart: bool, unroll: int, remat: str):
    """Also where the layers fill no whole number of periods."""

    def last(params: Any) -> tuple[jax.Array, list[Any]]:
        x_D, kept = run_layers(layer, jnp.ones(SIZE), params, period=period, unroll=unroll, remat=remat)
        return x_D.sum(), kept

    params = stack()
    given: Any = {name: tuple(leaf) for name, leaf in params.items()} if apart else params
    (found, kept), gradient = jax.jit(jax.value_and_grad(last, has_aux=True))(given)
    expected, expected_kept = one_by_one(params, period=period)
    np.testing.assert_allclose(found, expected.sum(), atol=1e-5)
    assert [kind for _, kind in kept] == [i % period for i in range(LAYERS)]
    for (x_D, _), (wanted_D, _) in zip(kept, expected_kept, strict=True):
        np.testing.assert_allclose(x_D, wanted_D, atol=1e-5)
    wanted = jax.grad(lambda params: one_by_one(params, period=period)[0].sum())(params)
    for name, leaf in gradient.items():
        np.testing.assert_allclose(jnp.stack(list(leaf)), wanted[name], atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["adamw", "lamb", "stable_adamw", "muon"])
def test_the_state_of_every_optimizer_is_taken_apart_and_stacked_again(config: Config, name: str):
    """Muon's has places without anything in them, for the parameters that are Adam's."""
    config = replace(
        config,
        model__scan_unroll=2,
        optimizer__name=name,
        optimizer__ema_decay=0.9,
        optimizer__clip_norm=None,
    )
    spec, mesh = spec_of(config), mesh_of((1, 1, 1))
    saved = jit_init_state(spec.scanned, mesh)()
    before = jax.tree.map(np.asarray, saved)
    apart = take_apart(saved, like=abstract_state(spec, mesh))
    assert jax.tree.structure(apart) == jax.tree.structure(abstract_state(spec, mesh))
    again = restack(apart, like=abstract_state(spec.scanned, mesh))
    assert jax.tree.structure(again) == jax.tree.structure(before)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, before))
