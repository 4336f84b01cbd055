"""A batch in parts, and together again. Neighbouring rows part, so that each stays on its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from bert_jax.parallel import sharding


def cut(batch: Any, parts: int) -> Any:
    """Arrays [B, ...] -> [parts, B / parts, ...]."""

    def cut_one(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return sharding.constrain(x, None, "batch", *([None] * (x.ndim - 2)))

    return jax.tree.map(cut_one, batch)


def joined(parts: Any) -> Any:
    """Arrays [parts, B / parts, ...] -> [B, ...], in the order that `cut` was given."""

    def join_one(x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1)
        x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        return sharding.constrain(x, "batch", *([None] * (x.ndim - 1)))

    return jax.tree.map(join_one, parts)


def in_parts(function: Callable[[Any], Any], batch: Any, parts: int) -> Any:
    """`function` of the parts of a batch, one after the other: arrays of all its rows."""
    return joined(jax.lax.map(function, cut(batch, parts)))
