"""A larger model from a smaller one: weights laid around the centre of larger matrices, layers spread out.

ModernBERT-large began so with the weights of base (Warner et al. 2024, section 3.2: centre tiling as in
Phi, depth as in Gopher). The smaller matrix lies in the middle of the larger one and goes on at its edges
from its other side.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def tile(array: Any, parameter: Parameter, *, head_dim: int, period: int = 1, first_position: int = 0) -> Any:
    """The array of a smaller model as one of the shape of `parameter`.

    Args:
      period: after how many layers the same kind of layer comes again; one begins as a layer of its kind.
      first_position: as `first` of `positions`.
    """
    for dimension, (axis, size) in enumerate(zip(parameter.logical_axes, parameter.shape, strict=True)):
        given = array.shape[dimension]
        if given == size:
            continue
        if axis is None and parameter.depth == 0:
            source = positions(size, given=given, first=first_position)
        elif axis == "layers":
            assert isinstance(parameter.depth, tuple)
            source = spread(parameter.depth, parameter.depth[:given], period=period)
        else:
            before = (size - given) // 2
            if axis == "heads":  # a head stays in one piece
                before -= before % head_dim
            source = (np.arange(size) - before) % given
        array = jnp.take(array, source, axis=dimension)
    return array


def spread(depths: Sequence[int], given: Sequence[int], *, period: int) -> np.ndarray:
    """For each of `depths` the place in `given` of the layer that it begins as.

    In their order, each as often as the others (Rae et al. 2021, arXiv 2112.11446, appendix G.3), but for
    each place in the period by itself.
    """
    source = np.zeros(len(depths), int)
    for place in range(period):
        wanted = [i for i, depth in enumerate(depths) if depth % period == place]
        have = [i for i, depth in enumerate(given) if depth % period == place] or range(len(given))
        source[wanted] = [have[number * len(have) // len(wanted)] for number in range(len(wanted))]
    return source
