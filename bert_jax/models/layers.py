"""Layers that encoders and heads share. A parameter is declared once, with all that is known of it.

Beside its value a parameter carries:
  logical_axes  a name for each dimension, which parallel/sharding.py maps to the mesh: "layers" first where
                layers are stacked, "vocab" where the vocabulary is padded to a multiple of 128, "parts" of
                a fused product, which Transformers has in one dimension with the next, "labels" where a size
                depends on the labels of a task, or is chosen for it
  huggingface   the name of the tensor in Transformers; `{}` stands for the layer of a stacked one
  transposed    whether that tensor has its last two dimensions the other way round, as PyTorch's Linear has
  decay         whether weight decay applies
  depth         for layer-wise learning rates: 0 of embeddings, l + 1 of layer l, L + 1 of heads; a stacked
                parameter has one a layer
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.ops.layer_norm import layer_norm
from bert_jax.ops.shapes import along_last_axis

Depth = int | tuple[int, ...]
Axes = tuple[str | None, ...]


def param(
    value: jax.Array, axes: Axes, *, huggingface: str, depth: Depth, decay: bool, transposed: bool = False
) -> nnx.Param:
    """A parameter with what the docstring of this module lists. A tuple as `depth` is of stacked layers."""
    axes = ("layers", *axes) if isinstance(depth, tuple) else axes
    assert len(axes) == value.ndim
    return nnx.Param(
        value,
        logical_axes=axes,
        huggingface=huggingface,
        transposed=transposed,
        decay=decay,
        depth=depth,
    )


def stacked(shape: Sequence[int], depth: Depth) -> tuple[int, ...]:
    """The shape of a parameter, with an axis in front for the layers where `depth` is of stacked layers."""
    return (len(depth), *shape) if isinstance(depth, tuple) else tuple(shape)


class Dense(nnx.Module):
    """x @ kernel + bias in the dtype of x: [..., I] -> [..., O].

    The initial weights are normally distributed, truncated at `cutoff` standard deviations.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        *,
        stddev: float,
        huggingface: str,
        depth: Depth,
        rngs: nnx.Rngs,
        cutoff: float = 2.0,
        bias: bool = True,
    ):
        normal = jax.nn.initializers.truncated_normal(stddev, lower=-cutoff, upper=cutoff)
        self.kernel = param(
            normal(rngs.params(), stacked(shape, depth)),
            axes,
            huggingface=f"{huggingface}.weight",
            depth=depth,
            decay=True,
            transposed=True,
        )
        self.bias = (
            param(
                jnp.zeros(stacked(shape[1:], depth)),
                axes[1:],
                huggingface=f"{huggingface}.bias",
                depth=depth,
                decay=False,
            )
            if bias
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + along_last_axis(self.bias[...].astype(x.dtype), y)


class FusedDense(nnx.Module):
    """Several dense layers of the same input as one product, without biases: [..., I] -> [..., P, O]."""

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        *,
        parts: int,
        stddev: float,
        cutoff: float,
        huggingface: str,
        depth: Depth,
        rngs: nnx.Rngs,
    ):
        normal = jax.nn.initializers.truncated_normal(stddev, lower=-cutoff, upper=cutoff)
        self.kernel = param(
            normal(rngs.params(), stacked((shape[0], parts, shape[1]), depth)),
            (axes[0], "parts", axes[1]),
            huggingface=f"{huggingface}.weight",
            depth=depth,
            decay=True,
            transposed=True,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tensordot(x, self.kernel[...].astype(x.dtype), axes=1)


class LayerNorm(nnx.Module):
    """Layer normalization over the last axis: [..., D] -> [..., D]."""

    def __init__(self, size: int, *, eps: float, huggingface: str, depth: Depth, bias: bool = True):
        shape = stacked((size,), depth)
        self.scale = param(
            jnp.ones(shape), ("embed",), huggingface=f"{huggingface}.weight", depth=depth, decay=False
        )
        self.bias = (
            param(jnp.zeros(shape), ("embed",), huggingface=f"{huggingface}.bias", depth=depth, decay=False)
            if bias
            else None
        )
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.scale[...]
        bias_D = jnp.zeros_like(scale_D) if self.bias is None else self.bias[...]
        return layer_norm(x, scale_D, bias_D, self.eps)


def fold_in(keys: jax.Array | None, index: jax.Array | int) -> jax.Array | None:
    """`jax.random.fold_in` for the key of each row; None where there are none."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, index)


def gather(x_BxSxD: jax.Array, positions_BxN: jax.Array) -> jax.Array:
    """[B, N, D]: the columns of each row that are named for it."""
    return jnp.take_along_axis(x_BxSxD, positions_BxN[:, :, None], axis=1)
