"""The length of a run by what it may cost: `train.budget` in hours, tokens or FLOPs.

Tokens and FLOPs are so many steps, known before the first one. Hours are not: the learning rate then follows
the clock, so that its schedule ends when the time is over, however fast the steps are (Izsak et al. 2021,
section 4).
"""

from __future__ import annotations

import dataclasses
import math

from bert_jax.config import Config
from bert_jax.training.batch_ramp import rows_before
from bert_jax.training.flops import train_step_flops
from data_pipeline.errors import UserError


def in_steps(config: Config) -> Config:
    """With the `train.steps` that a budget of tokens or FLOPs is enough for; as it was, with any other.

    Tokens are columns of rows, padding included, as papers count them.

    Raises:
      UserError: the budget ends before the batch has grown to its size, or is of too many or too few steps.
    """
    train = config.train
    if not train.is_bought:
        return config
    amount, unit = train.budget_amount
    of_a_row = {
        "tokens": config.data.sequence_length,
        "flops": train_step_flops(config) / train.global_batch_size,
    }[unit]
    ramp = train.batch_ramp_steps
    left = amount / of_a_row - rows_before(train, ramp)
    if left <= 0:
        raise UserError(f"train.budget {train.budget!r} ends within train.batch_ramp_steps {ramp}")
    steps = ramp + math.ceil(left / train.global_batch_size)
    bought = dataclasses.replace(config, train=dataclasses.replace(train, steps=steps))
    bought.check_steps()
    return bought
