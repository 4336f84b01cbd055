"""Layer normalization (Ba et al. 2016) in float32, whose backward pass keeps the input in its own dtype."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Over the last axis of x, [..., D] -> [..., D] in the dtype of x; scale and bias are [D], float32.

    Autodiff would keep several float32 arrays of x's size; this keeps x, and two numbers a position.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axis=-1, keepdims=True)
    centred = x32 - mean
    inverse = jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    y = centred * inverse * _like(scale, x) + _like(bias, x)
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _backward(eps: float, kept: tuple[jax.Array, ...], by_y: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, inverse, scale = kept
    normalized = (x.astype(jnp.float32) - mean) * inverse
    by_y32 = by_y.astype(jnp.float32)
    by_normalized = by_y32 * _like(scale, x)
    along = (by_normalized * normalized).mean(axis=-1, keepdims=True)
    by_x = inverse * (by_normalized - by_normalized.mean(axis=-1, keepdims=True) - normalized * along)
    positions = tuple(range(x.ndim - 1))
    return by_x.astype(x.dtype), (by_y32 * normalized).sum(positions), by_y32.sum(positions)


layer_norm.defvjp(_forward, _backward)


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.expand_dims(vector, range(x.ndim - 1))
