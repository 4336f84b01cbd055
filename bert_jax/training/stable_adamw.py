"""StableAdamW: Adam whose steps are short where the second moment has not kept up with the gradient.

Wortsman et al. (2023, arXiv 2304.13013), algorithm 2. It stands in for clipping by the global norm.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.network import Network, Parameter, Params, parameters_in_state, real_size


def stabilized(
    adam: optax.GradientTransformation,
    decay: optax.GradientTransformation,
    network: Network,
    *,
    b2: float,
    eps: float,
) -> optax.GradientTransformation:
    """`adam` and weight `decay`, divided by max(1, RMS of the gradient over its expected size).

    RMS^2 is the mean of g^2 / max(v, eps^2) over a tensor as PyTorch has it: one layer's slice of stacked
    parameters, a fused product as a whole, and without the rows that pad the vocabulary. `v` is the second
    moment that has seen `g` already, corrected for its start at zero.
    """
    both = optax.chain(adam, decay)
    declared = parameters_in_state(network)

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        updates, state = both.update(grads, state, params)
        correction = 1 - b2 ** state[0].count
        scale = functools.partial(_shorten, network, correction, eps)
        return jax.tree.map(scale, updates, grads, state[0].nu, declared), state

    return optax.GradientTransformation(both.init, update)


def _shorten(
    network: Network,
    correction: jax.Array,
    eps: float,
    update: jax.Array,
    grad: jax.Array,
    nu: jax.Array,
    parameter: Parameter,
) -> jax.Array:
    within = tuple(i for i, axis in enumerate(parameter.logical_axes) if axis != "layers")
    layers = parameter.shape[0] if parameter.is_stacked else 1
    surprise = jnp.square(grad) / jnp.maximum(nu / correction, eps**2)
    total = jnp.sum(surprise, axis=within, keepdims=True)
    rms = jnp.sqrt(total / (real_size(network, parameter) // layers))
    return update / jnp.maximum(1, rms)
