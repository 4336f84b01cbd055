"""A larger model from a smaller one: weights laid around the centre of larger matrices, layers spread out.

ModernBERT-large began so with the weights of base (Warner et al. 2024, section 3.2: centre tiling as in
Phi, depth as in Gopher). The smaller matrix lies in the middle of the larger one and goes on at its edges
from its other side.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from bert_jax.config import EncoderConfig
from bert_jax.training.network import Parameter
from data_pipeline.errors import require

SIZES = ("hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def check_sizes(theirs: EncoderConfig, ours: EncoderConfig) -> None:
    """Raises UserError unless `theirs` is no larger and its heads have the same size."""
    for name in SIZES:
        one, other = getattr(theirs, name), getattr(ours, name)
        require(one <= other, f"init.tile: {name} of the source is {one}, more than model.{name} {other}")
    is_projected = theirs.embedding_size != theirs.hidden_size
    wanted = theirs.embedding_size if is_projected else ours.hidden_size
    require(
        ours.embedding_size == wanted,
        f"init.tile: model.embedding_size is {ours.embedding_size}; it must be {wanted}, as the source "
        f"{'projects' if is_projected else 'does not project'} its embeddings",
    )
    require(
        theirs.head_dim == ours.head_dim,
        f"init.tile: heads of the source have {theirs.head_dim} dimensions, those of the model "
        f"{ours.head_dim}; set model.num_attention_heads so that they have as many",
    )


def positions(length: int, *, given: int, first: int) -> np.ndarray:
    """Rows of a table with `given` for one of `length`: the first ones, or all of them again.

    Args:
      first: the row of the first position. What is before it stays.
    """
    row = np.arange(length)
    return np.where(row < given, row, first + (row - first) % (given - first))


def tile(array: Any, parameter: Parameter, *, head_dim: int, first_position: int = 0) -> Any:
    """The array of a smaller model as one of the shape of `parameter`."""
    for dimension, (axis, size) in enumerate(zip(parameter.logical_axes, parameter.shape, strict=True)):
        given = array.shape[dimension]
        if given == size:
            continue
        if axis is None and parameter.depth == 0:
            source = positions(size, given=given, first=first_position)
        elif axis == "layers":  # Rae et al. 2021 (arXiv 2112.11446), appendix G.3
            source = np.arange(size) * given // size
        else:
            before = (size - given) // 2
            if axis == "heads":  # a head stays in one piece
                before -= before % head_dim
            source = (np.arange(size) - before) % given
        array = jnp.take(array, source, axis=dimension)
    return array
