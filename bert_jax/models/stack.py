"""Runs stacked layers one after the other: scanned, or each compiled by itself."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config import EncoderConfig
from bert_jax.parallel.sharding import sum_gradient

Layer = Callable[[jax.Array, Any, Any, int], jax.Array]
"""(x, parameters of a layer, its number in the stack, its place in the period) -> x."""


def run_layers(
    layer: Layer, x: jax.Array, stacked: Any, config: EncoderConfig, *, period: int = 1
) -> jax.Array:
    """What leaves the last layer of a stack that `x` enters.

    Args:
      stacked: a tree of parameters, each with the layers as its first axis.
      period: so many layers, which may be of different kinds, are repeated; a compiled body has all of them.
    """
    count = len(jax.tree.leaves(stacked)[0])

    def one(x: jax.Array, params: Any, number: Any, place: int) -> jax.Array:
        return remat(config)(lambda x, params, number: layer(x, params, number, place))(
            x, sum_gradient(params), number
        )

    def body(x: jax.Array, inputs: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
        params, numbers = inputs
        for place in range(period):
            x = one(x, jax.tree.map(operator.itemgetter(place), params), numbers[place], place)
        return x, None

    periods = count // period
    whole = periods * period
    if periods:
        cut = lambda leaf: leaf[:whole].reshape(periods, period, *leaf.shape[1:])  # noqa: E731
        inputs = jax.tree.map(cut, stacked), cut(jnp.arange(count))
        unroll = min(max(1, config.scan_unroll // period), periods)
        x, _ = jax.lax.scan(body, x, inputs, unroll=unroll)
    for number in range(whole, count):
        x = one(x, jax.tree.map(operator.itemgetter(number), stacked), number, number - whole)
    return x


def remat(config: EncoderConfig) -> Callable[..., Any]:
    """`jax.checkpoint` as configured, to be put around a layer (Chen et al. 2016)."""
    policies = jax.checkpoint_policies
    match config.remat:
        case "none":
            return lambda layer: layer
        case "dots":
            policy = policies.dots_with_no_batch_dims_saveable
        case "full":
            policy = policies.nothing_saveable
        case "offload":
            policy = policies.offload_dot_with_no_batch_dims("device", "pinned_host")
    return functools.partial(jax.checkpoint, policy=policy)
