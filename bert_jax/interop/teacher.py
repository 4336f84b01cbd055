"""The teacher of a distillation, from its folder: the weights on the mesh, and whose tokenizer it has."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.config import Config, DistillationConfig
from bert_jax.interop.source import check_tokenizer, placed, read_weights
from bert_jax.objectives import mlm
from bert_jax.training.network import Network, Params, constants
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import abstract_constants
from bert_jax.workdir.bucket import source_folder
from data_pipeline.errors import UserError

FIELD = "objective.teacher"


def teacher_constants(spec: RunSpec, mesh: Mesh) -> Params:
    """The parameters of the teacher of a run, as `train_step` takes them; {} for a run without one.

    Raises:
      FileNotFoundError, UserError: weights are missing or damaged.
    """
    teacher, settings = spec.network.teacher, spec.network.settings
    if teacher is None:
        return {}
    assert isinstance(settings, DistillationConfig)
    assert settings.teacher is not None
    source = source_folder(settings.teacher)
    weights = read_weights(source, Network(teacher.model, mlm, mlm.Config()), mesh, field=FIELD)

    def on_mesh(parameter: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if parameter.huggingface not in weights:
            raise UserError(
                f"{FIELD} {source} has no masked-LM head, whose predictions objective.soft_weight "
                f"{settings.soft_weight} is for: give another teacher, or set it to 0"
            )
        return placed(weights[parameter.huggingface], lambda array: array, leaf.sharding)

    return jax.tree.map(on_mesh, constants(spec.network), abstract_constants(spec, mesh))


def check_teacher_tokenizer(config: Config) -> None:
    """Raises UserError if there is a teacher, and the dataset was prepared with another tokenizer."""
    if isinstance(config.objective, DistillationConfig) and config.objective.teacher is not None:
        check_tokenizer(source_folder(config.objective.teacher), config, field=FIELD)
