"""Downstream tasks, one a file."""

from __future__ import annotations

from bert_jax.config import ObjectiveConfig
from bert_jax.tasks import (
    classification,
    embedding,
    late_interaction,
    multi_label,
    question_answering,
    regression,
    reranking,
    token_classification,
)
from bert_jax.tasks.task import Task

TASKS: tuple[Task, ...] = (
    classification,
    multi_label,
    reranking,
    regression,
    token_classification,
    question_answering,
    embedding,
    late_interaction,
)


def task_of(settings: ObjectiveConfig) -> Task:
    """The task that a config is for."""
    return next(task for task in TASKS if type(settings) is task.Config)
