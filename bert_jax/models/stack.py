"""Layers of one shape, one after the other: scanned over their stack, or apart.

A stack has the parameters of all its layers on a leading axis, an array [L, ...] a leaf. `jax.lax.scan` runs
it: one period of layers is compiled, and the loop copies each layer's weights out of the stack and its
gradient into another one. Layers apart are a tuple of L arrays in the place of each leaf. Each is compiled by
itself, and there is nothing to copy.

A period is how many layers it takes until the same kind comes again: 1 where all are alike, 3 for a global
layer and two local ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

Layer = Callable[[Any, Any, Any, int], tuple[Any, Any]]
"""(x, params, index, kind) -> (x, kept): the place of a layer among its like, which a scan does not know
before it runs, and its place in the period, which is a Python number."""


def run_layers(
    layer: Layer, x: Any, params: Any, *, period: int = 1, unroll: int, remat: str
) -> tuple[Any, list[Any]]:
    """What the last layer returns, and what each layer has kept, first to last.

    Args:
      params: a tree of stacks, or of tuples of layers. Layers of a stack that fill no period follow the scan.
      unroll: layers of a stack that the body of the scan has, whole periods and at least one. Layers apart
        are all compiled.
      remat: as `ModelConfig.remat`; one layer at a time.
    """
    layer = _rematerialized(layer, remat)
    leaf = jax.tree.leaves(params, is_leaf=_is_apart)[0]
    scanned = 0 if _is_apart(leaf) else len(leaf) - len(leaf) % period

    def in_turn(x: Any, layers: Sequence[Any], first: Any) -> tuple[Any, list[Any]]:
        kept = []
        for place, params in enumerate(layers):
            x, keeps = layer(x, params, first + place, place % period)
            kept.append(keeps)
        return x, kept

    def one_period(x: Any, inputs: tuple[Any, jax.Array]) -> tuple[Any, list[Any]]:
        params, first = inputs
        return in_turn(x, [params] if period == 1 else [_pick(params, i) for i in range(period)], first)

    kept = []
    if scanned:
        periods = params
        if period > 1:
            periods = jax.tree.map(lambda x: x[:scanned].reshape(-1, period, *x.shape[1:]), params)
        firsts = jnp.arange(0, scanned, period)
        unroll = min(max(1, unroll // period), len(firsts))
        x, of_periods = jax.lax.scan(one_period, x, (periods, firsts), unroll=unroll)
        kept = [
            jax.tree.map(lambda leaf, i=i: leaf[i], keeps) for i in range(len(firsts)) for keeps in of_periods
        ]
    rest = [_pick(params, i) for i in range(scanned, len(leaf))]
    x, of_rest = in_turn(x, rest, scanned)
    return x, kept + of_rest


def keep_if(is_wanted: Any, found: Any, kept: Any) -> Any:
    """`found` where it is of the layer that is wanted, else what was `kept` before: for what `x` of `Layer`
    carries on beside the hidden states. A scan that returned it of each layer would hold it L times."""
    return jax.tree.map(lambda new, old: jnp.where(is_wanted, new, old), found, kept)


def take_apart(tree: Any, *, like: Any) -> Any:
    """Arrays with their layers apart where `like`, an abstract tree, has them apart.

    Each stack is deleted once its layers are there: no second copy of all is in memory at any time.
    """

    def split(array: jax.Array, wanted: Any) -> Any:
        if _is_masked(array) or not _is_apart(wanted):
            return wanted if _is_masked(array) else array
        layers = jax.jit(tuple, out_shardings=tuple(layer.sharding for layer in wanted))(array)
        array.delete()
        return layers

    return jax.tree.map(split, tree, like, is_leaf=_is_masked)


def restack(tree: Any, *, like: Any) -> Any:
    """Arrays with their layers stacked as `like`, an abstract tree, has them. The layers apart stay."""

    def joined(wanted: Any, array: Any) -> Any:
        if _is_masked(wanted):
            return wanted
        return jax.jit(jnp.stack, out_shardings=wanted.sharding)(array) if _is_apart(array) else array

    return jax.tree.map(joined, like, tree, is_leaf=_is_masked)


def _is_apart(leaf: Any) -> bool:
    return isinstance(leaf, tuple)


def _is_masked(leaf: Any) -> bool:
    """Whether it holds the place of a parameter that a part of the optimizer has nothing for."""
    return isinstance(leaf, optax.MaskedNode)


def _pick(params: Any, index: int) -> Any:
    """One layer of a tree of stacks, or of tuples."""
    return jax.tree.map(lambda leaf: leaf[index], params, is_leaf=_is_apart)


def _rematerialized(layer: Layer, remat: str) -> Layer:
    """`jax.checkpoint` as configured, around a layer (Chen et al. 2016)."""
    policies = jax.checkpoint_policies
    match remat:
        case "none":
            return layer
        case "dots":
            policy = policies.dots_with_no_batch_dims_saveable
        case "full":
            policy = policies.nothing_saveable
        case "offload":
            policy = policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    return functools.partial(jax.checkpoint, policy=policy, static_argnums=3)(layer)
