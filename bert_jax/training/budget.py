"""The length of a run by what it may cost: `train.budget` in hours, tokens or FLOPs.

Tokens and FLOPs are so many steps, known before the first one. Hours are not: the learning rate then follows
the clock, so that its schedule ends when the time is over, however fast the steps are (Izsak et al. 2021,
section 4).
"""

from __future__ import annotations

import math

from bert_jax.config import TrainConfig
from bert_jax.objectives.objective import RowShape
from bert_jax.training.batch_ramp import make_stages, position_at
from bert_jax.training.network import Network, flops
from data_pipeline.errors import UserError


def resolve_budget(train: TrainConfig, network: Network, rows: RowShape) -> int:
    """The steps that a budget of tokens or FLOPs is enough for; train.steps, with any other.

    Tokens are columns of rows, padding included, as papers count them.

    Raises:
      UserError: the budget ends before the batch has grown to its size.
    """
    if not train.steps_from_budget:
        return train.steps
    amount, unit = train.budget_amount
    row_cost = {"tokens": rows.sequence_length, "flops": flops(network, rows)}[unit]
    ramp = train.batch_ramp_steps
    left = amount / row_cost - position_at(make_stages(train, max_steps=max(1, ramp)), ramp)
    if left <= 0:
        raise UserError(f"train.budget {train.budget!r} ends within train.batch_ramp_steps {ramp}")
    return ramp + math.ceil(left / train.global_batch_size)
