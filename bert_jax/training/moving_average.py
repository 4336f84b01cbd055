"""An exponential moving average of the parameters, beside them in the optimizer's state."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.network import Params

OF_AVERAGE = "ema_"
"""What the names of its metrics begin with."""


def keep_average(decay: float) -> optax.GradientTransformation:
    """Leaves updates as they are, and averages the parameters that they lead to.

    The average needs no correction when it is read: that of t steps gives the newest parameters the part
    (1 - decay) / (1 - decay^t), all of it at first.
    """

    def init(params: Params) -> optax.EmaState:
        return optax.EmaState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        assert params is not None
        count = state.count + 1
        part = (1 - decay) / -jnp.expm1(count * math.log(decay))  # 1 - decay^t, without its cancellation
        new = optax.apply_updates(params, updates)
        ema = jax.tree.map(lambda old, x: old + part * (x - old), state.ema, new)
        return updates, optax.EmaState(count, ema)

    return optax.GradientTransformation(init, update)


def average_in(opt_state: Any) -> Params:
    """The average in the state of an optimizer that keeps one."""
    return optax.tree.get(opt_state, "ema")
