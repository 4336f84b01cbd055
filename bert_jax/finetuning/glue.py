"""The tasks of GLUE (Wang et al. 2018), one after the other, in one table."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bert_jax.config import ClassificationConfig, Config, RegressionConfig, TaskConfig, TextTaskConfig
from bert_jax.finetuning.finetune import finetune, spreads
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)


class GlueTask(NamedTuple):
    """Columns as in TFDS's glue/NAME."""

    text: str
    pair: str | None
    scores: tuple[str, ...]
    """Those that GLUE reports; by the first one checkpoints are compared."""
    labels: tuple[str, ...] = ()
    """TFDS's labels, 0 and 1 in files: in GLUE's order where F1, which is of the second, is reported."""
    config: type[TextTaskConfig] = ClassificationConfig
    validation: str = "validation"


TASKS = {
    "cola": GlueTask("sentence", None, ("mcc",)),
    "sst2": GlueTask("sentence", None, ("accuracy",)),
    "mrpc": GlueTask("sentence1", "sentence2", ("f1", "accuracy"), ("not_equivalent", "equivalent")),
    "stsb": GlueTask("sentence1", "sentence2", ("pearson", "spearman"), config=RegressionConfig),
    "qqp": GlueTask("question1", "question2", ("f1", "accuracy"), ("not_duplicate", "duplicate")),
    "mnli": GlueTask("premise", "hypothesis", ("accuracy",), validation="validation_matched"),
    "qnli": GlueTask("question", "sentence", ("accuracy",)),
    "rte": GlueTask("sentence1", "sentence2", ("accuracy",)),
    "wnli": GlueTask("sentence1", "sentence2", ("accuracy",)),
}

FOLLOWS_IN_GLUE = ("train", "validation", "text", "pair", "label", "labels")
"""Fields of the task that GLUE decides."""


def glue(
    config: Config, *, workdir: Path, tasks: Sequence[str], seeds: Sequence[int], files: Path | None
) -> list[str] | None:
    """Fine-tunes for each task with each seed; `workdir/TASK/seed-N` holds the runs, `glue.json` the scores.

    Args:
      config: of a fine-tuning; columns, labels and files are those of the tasks, and so is checkpoint.best,
        if it is None.
      files: a folder with TASK/train.tsv and TASK/validation.tsv; None: TFDS.

    Returns:
      The table, in Markdown; None if a signal stopped a run, whose state is saved.

    Raises:
      UserError: a task is unknown, or the config sets what GLUE decides; or as `finetune`.
    """
    if not isinstance(config.task, TextTaskConfig):
        raise UserError("glue wants a config for texts, such as configs/finetune_classification.py")
    if not tasks or not seeds:
        raise UserError(f"--{'seeds' if tasks else 'tasks'} has none; give at least one")
    for name in FOLLOWS_IN_GLUE:
        given = getattr(config.task, name, None)
        if given != getattr(type(config.task)(), name, None):
            raise UserError(f"task.{name} is {given!r}, but each task of GLUE has its own: leave it out")
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        raise UserError(f"GLUE has no task {unknown[0]!r}; it has {', '.join(TASKS)}")
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in tasks:
        log.info("%s", name)
        results = finetune(_config_of(config, name, files), workdir=workdir / name, seeds=seeds)
        if results is None:
            return None
        found[name] = spreads(results)
        if jax.process_index() == 0:
            (workdir / "glue.json").write_text(json.dumps(found, indent=2) + "\n")
    return table(found, seeds=seeds)


def table(found: dict[str, dict[str, tuple[float, float]]], *, seeds: Sequence[int]) -> list[str]:
    """A line a task, with mean ± spread of what GLUE reports, times 100; and the mean over the tasks."""
    lines = [f"| task | score | {len(seeds)} seed(s) |", "|---|---|---|"]
    means = []
    for name, scores in found.items():
        chosen = [scores[score] for score in TASKS[name].scores]
        means.append(sum(mean for mean, _ in chosen) / len(chosen))
        shown = " / ".join(f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in chosen)
        lines.append(f"| {name} | {' / '.join(TASKS[name].scores)} | {shown} |")
    return [*lines, f"| mean | | {100 * sum(means) / len(means):.1f} |"]


def _config_of(config: Config, name: str, files: Path | None) -> Config:
    """A config for one task of GLUE, with all else as in `config`."""
    assert config.task is not None
    glue_task = TASKS[name]
    train, validation = f"tfds:glue/{name}:train", f"tfds:glue/{name}:{glue_task.validation}"
    labels = glue_task.labels
    if files is not None:
        labels = ("0", "1") if glue_task.labels else ()
        train, validation = (str(files / name / f"{split}.tsv") for split in ("train", "validation"))
    shared = {field.name: getattr(config.task, field.name) for field in dataclasses.fields(TaskConfig)}
    own: dict[str, Any] = {"train": train, "validation": validation}
    own |= {"text": glue_task.text, "pair": glue_task.pair, "label": "label"}
    if labels:
        own["labels"] = labels
    return dataclasses.replace(
        config,
        task=glue_task.config(**shared | own),
        checkpoint=dataclasses.replace(config.checkpoint, best=config.checkpoint.best or glue_task.scores[0]),
    )
