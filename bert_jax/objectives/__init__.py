"""Pretraining objectives, one a file."""

from __future__ import annotations

from bert_jax.config import ObjectiveConfig
from bert_jax.objectives import mlm, mlm_nsp, mlm_sop, retromae, rtd
from bert_jax.objectives.distillation import Distillation
from bert_jax.objectives.objective import Objective

OBJECTIVES: tuple[Objective, ...] = (mlm_nsp, mlm_sop, mlm, rtd, retromae, Distillation())


def objective_for(asked: ObjectiveConfig | None, *, input_format: str) -> tuple[Objective, ObjectiveConfig]:
    """The objective that was asked for, or the first that is for rows of `input_format`; and its config."""
    if asked is None:
        objective = next(found for found in OBJECTIVES if input_format in found.INPUT_FORMATS)
        return objective, objective.Config()
    return next(found for found in OBJECTIVES if type(asked) is found.Config), asked
