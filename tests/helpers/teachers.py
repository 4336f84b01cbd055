"""Students and their teachers, without files."""

from __future__ import annotations

from typing import Any

import jax

from bert_jax.config import Config, DistillationConfig, EncoderConfig, MlmConfig
from bert_jax.objectives import mlm
from bert_jax.objectives.distillation import Teacher
from bert_jax.training.network import Network, Params, init_params
from bert_jax.training.run_spec import RunSpec, pretraining_spec
from tests.helpers.configs import CPU, replace


def student(config: Config, teacher: EncoderConfig, **objective: Any) -> RunSpec:
    """What follows from `config` with a distillation from such a teacher."""
    settings = DistillationConfig(teacher="the teacher", **objective)
    config = replace(config, objective=settings)
    assert isinstance(config.model, EncoderConfig)
    return pretraining_spec(config, config.model, CPU, teacher=Teacher(teacher, "its digest"))


def network_of(teacher: EncoderConfig) -> Network:
    """The teacher as a model by itself."""
    return Network(teacher, mlm, MlmConfig())


def lively_params(network: Network, seed: int = 0, noise: float = 0.2) -> Params:
    """Initial parameters moved by noise: no bias is 0, no logit near another."""

    def moved() -> Params:
        params = init_params(network, jax.random.key(seed))
        key = jax.random.key(seed)
        return jax.tree.map(
            lambda x: x + noise * jax.random.normal(jax.random.fold_in(key, x.size), x.shape), params
        )

    return jax.jit(moved)()


def constants_of(params: Params, *, head: bool = True) -> Params:
    """The parameters of a teacher as `train_step` takes them.

    Args:
      head: its masked-LM head too, which a student needs that learns from its predictions.
    """
    parts = {"encoder": params["encoder"]} | ({"mlm": params["objective"]["mlm"]} if head else {})
    return {"teacher": parts}
