"""The tasks of GLUE (Wang et al. 2018), one after the other, in one table."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from bert_jax.config import Config
from bert_jax.tasks.finetune import finetune, spreads
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)


class Task(NamedTuple):
    """Columns as in TFDS's glue/NAME."""

    text: str
    pair: str | None
    scores: tuple[str, ...]
    """Those that GLUE reports; by the first one checkpoints are compared."""
    labels: tuple[str, ...] = ()
    """In TFDS, 0 and 1 in files: in GLUE's order where F1, which is of the second, is reported."""
    head: Literal["classification", "regression"] = "classification"
    validation: str = "validation"


TASKS = {
    "cola": Task("sentence", None, ("mcc",)),
    "sst2": Task("sentence", None, ("accuracy",)),
    "mrpc": Task("sentence1", "sentence2", ("f1", "accuracy"), ("not_equivalent", "equivalent")),
    "stsb": Task("sentence1", "sentence2", ("pearson", "spearman"), head="regression"),
    "qqp": Task("question1", "question2", ("f1", "accuracy"), ("not_duplicate", "duplicate")),
    "mnli": Task("premise", "hypothesis", ("accuracy",), validation="validation_matched"),
    "qnli": Task("question", "sentence", ("accuracy",)),
    "rte": Task("sentence1", "sentence2", ("accuracy",)),
    "wnli": Task("sentence1", "sentence2", ("accuracy",)),
}


def glue(
    config: Config, *, workdir: Path, tasks: Sequence[str], seeds: Sequence[int], files: Path | None
) -> list[str] | None:
    """Fine-tunes for each task with each seed; `workdir/TASK/seed-N` holds the runs, `glue.json` the scores.

    Args:
      config: of a fine-tuning; columns, labels and files are those of the tasks, and so is checkpoint.best,
        if it is "loss".
      files: a folder with TASK/train.tsv and TASK/validation.tsv; None: TFDS.

    Returns:
      The table, in Markdown; None if a signal stopped a run, whose state is saved.

    Raises:
      UserError: a task is unknown; or as `finetune`.
    """
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
    task = TASKS[name]
    train, validation = f"tfds:glue/{name}:train", f"tfds:glue/{name}:{task.validation}"
    labels, best = task.labels, config.checkpoint.best
    if files is not None:
        labels = ("0", "1") if task.labels else ()
        train, validation = (str(files / name / f"{split}.tsv") for split in ("train", "validation"))
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, head=task.head, labels=labels),
        checkpoint=dataclasses.replace(config.checkpoint, best=task.scores[0] if best == "loss" else best),
        task=dataclasses.replace(
            config.task,
            train=train,
            validation=validation,
            text=task.text,
            pair=task.pair,
            label="label",
        ),
    )
