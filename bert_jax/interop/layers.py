"""A shallower model from a deeper one: each of its layers begins as one of the other's (Sanh et al. 2019)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.training.network import Network, Parameter, parameters
from data_pipeline.errors import UserError, require


def check_layers(layers: tuple[int, ...], theirs: Network, ours: Network) -> None:
    """Raises UserError unless each layer of `ours` can begin as the one of `theirs` that `layers` has for it.

    Some encoders have layers of several kinds, and a first layer with fewer parameters than the others.
    """
    depth, most = ours.model.num_hidden_layers, theirs.model.num_hidden_layers
    require(
        len(layers) == depth,
        f"init.layers has {len(layers)} numbers, but model.num_hidden_layers is {depth}: give one a layer",
    )
    for place, number in enumerate(layers):
        require(number < most, f"init.layers has {number}, but the source has the layers 0 to {most - 1}")
        period = theirs.model.period
        if number % period != place % period or _parts(theirs, number) != _parts(ours, place):
            raise UserError(
                f"init.layers has {number} for layer {place}, which is of another kind: kinds come again "
                f"after {period} layers, and the first layer may be unlike all others"
            )


def take_layers(array: Any, parameter: Parameter, layers: tuple[int, ...]) -> Any:
    """The stack of a parameter of the source as one for `parameter`."""
    assert isinstance(parameter.depth, tuple)
    first = parameter.depth[0]  # that of a stack may be above layers that stand alone
    chosen = [layers[depth - 1] + 1 - first for depth in parameter.depth]
    return jnp.take(array, np.array(chosen), axis=0)


def _parts(network: Network, layer: int) -> set[str]:
    """The tensors of a layer, by name in Transformers with {} for its number."""
    found = set()
    for parameter in jax.tree.leaves(parameters(network)["encoder"]):
        if not parameter.is_stacked:
            name = parameter.huggingface.replace(f".{layer}.", ".{}.")
            found |= {name} if name != parameter.huggingface else set()
        elif layer + 1 in parameter.depth:
            found.add(parameter.huggingface)
    return found
