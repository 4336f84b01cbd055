"""Layer normalization (Ba et al. 2016) in float32, whose backward pass keeps the input in its own dtype."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from bert_jax.ops.shapes import along_last_axis


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Over the last axis of x, [..., D] -> [..., D] in the dtype of x; scale and bias are [D], float32.

    Autodiff would keep several float32 arrays of x's size as residuals; this keeps x, and two numbers a
    position.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axis=-1, keepdims=True)
    centred = x32 - mean
    inverse = jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    y = centred * inverse * along_last_axis(scale, x) + along_last_axis(bias, x)
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _backward(eps: float, residuals: tuple[jax.Array, ...], grad_y: jax.Array) -> tuple[jax.Array, ...]:
    x, mean, inverse, scale = residuals
    normalized = (x.astype(jnp.float32) - mean) * inverse
    grad_y32 = grad_y.astype(jnp.float32)
    grad_normalized = grad_y32 * along_last_axis(scale, x)
    projection = (grad_normalized * normalized).mean(axis=-1, keepdims=True)
    grad_mean = grad_normalized.mean(axis=-1, keepdims=True)
    grad_x = inverse * (grad_normalized - grad_mean - normalized * projection)
    positions = tuple(range(x.ndim - 1))
    return grad_x.astype(x.dtype), (grad_y32 * normalized).sum(positions), grad_y32.sum(positions)


layer_norm.defvjp(_forward, _backward)
