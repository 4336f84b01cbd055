"""Fine-tuning: labelled examples and a pretrained encoder -> a model for a task; several seeds if asked."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from bert_jax.config import Config
from bert_jax.interop.initialize import SAME, model_of, tokenizer_of
from bert_jax.run.loop import train
from bert_jax.tasks.data import Split, TaskFeed, data_section, make_splits
from bert_jax.tasks.examples import Example, Text, Words, read
from bert_jax.tasks.scores import check_libraries, names
from bert_jax.workdir.checkpoint import best_step
from bert_jax.workdir.metrics_file import read_metrics
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import load_fast

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """Of one seed: its best checkpoint on the validation examples."""

    seed: int
    workdir: Path
    step: int
    scores: dict[str, float]


def finetune(config: Config, *, workdir: Path, seeds: Sequence[int] = ()) -> list[Result] | None:
    """Trains on `task.train`, and goes on where the workdir was left.

    Args:
      workdir: of the run; with `seeds` each has a workdir of its own in it, `seed-0` ...
      seeds: in place of train.seed, one run after the other.

    Returns:
      A result a seed; None if a signal stopped a run, whose state is saved.

    Raises:
      FileNotFoundError, UserError: config, source, examples or workdir cannot be used.
    """
    config, feeds = _prepare(config)
    places = {seed: workdir / f"seed-{seed}" for seed in seeds} or {config.train.seed: workdir}
    results = []
    for seed, place in places.items():
        run = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        if not train(run, feeds, workdir=place):
            return None
        results.append(_result(run, place))
    if seeds and jax.process_index() == 0:
        summary = {result.workdir.name: {"step": result.step} | result.scores for result in results}
        (workdir / "results.json").write_text(json.dumps(summary, indent=2) + "\n")
    return results


def report(results: Sequence[Result]) -> list[str]:
    """A line a seed, and the mean with the spread (the standard deviation of a sample)."""
    names = list(results[0].scores)
    lines = [
        f"seed {result.seed}, step {result.step}: " + ", ".join(f"{n} {result.scores[n]:.4f}" for n in names)
        for result in results
    ]
    if len(results) > 1:
        means = (f"{name} {mean:.4f} ± {spread:.4f}" for name, (mean, spread) in spreads(results).items())
        lines.append(f"{len(results)} seeds: " + ", ".join(means))
    return lines


def spreads(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each score; 0 where there is one seed."""
    by_name = {name: [result.scores[name] for result in results] for name in results[0].scores}
    return {
        name: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        for name, values in by_name.items()
    }


def _prepare(config: Config) -> tuple[Config, functools.partial[TaskFeed]]:
    """The config with all that follows from source and examples; and what makes the feed of a run."""
    head, task = config.model.head, config.task
    assert head != "pretraining"
    check_libraries(head)
    if config.init.source is None:
        raise UserError("init.source is not given: a pretrained model, as a workdir or an exported folder")
    for name in ("train", "validation"):
        if not getattr(task, name):
            raise UserError(f"task.{name} is not given: a file of examples, or tfds:NAME:SPLIT")
    source = Path(config.init.source)
    made_for = model_of(source)
    taken = {name: getattr(made_for, name) for name in (*SAME, "max_position_embeddings")}
    if task.sequence_length > made_for.max_position_embeddings:
        raise UserError(
            f"task.sequence_length is {task.sequence_length}, but init.source {source} has "
            f"{made_for.max_position_embeddings} positions"
        )
    tokenizer = load_fast(tokenizer_of(source))
    examples = {name: read(head, getattr(task, name), task) for name in ("train", "validation")}
    labels = config.model.labels or _labels(examples["train"])
    model = dataclasses.replace(config.model, **taken, labels=labels)
    config = dataclasses.replace(config, model=model, data=data_section(task.sequence_length))
    for_training, for_validation = make_splits(config, list(examples.values()), tokenizer)
    _tell("train", for_training)
    _tell("validation", for_validation)
    feeds = functools.partial(TaskFeed, train=for_training, validation=for_validation)
    rows, columns = for_training.features.arrays["token_ids"].shape
    return _resolved(config, rows=rows, columns=columns), feeds


def _resolved(config: Config, *, rows: int, columns: int) -> Config:
    """With the steps that follow from epochs, and the score by which checkpoints are compared."""
    head, task = config.model.head, config.task
    assert head != "pretraining"
    known = [name for name in names(head, config.model.labels) if name != "mse"]  # of which less is better
    best = known[0] if config.checkpoint.best == "loss" else config.checkpoint.best
    if best not in known:
        raise UserError(
            f"checkpoint.best is {best!r}; what says which checkpoint of this {head} model is best is "
            f"one of {', '.join(known)}"
        )
    steps = max(1, math.ceil(task.epochs * rows / config.train.global_batch_size))
    every = max(1, math.ceil(rows / config.train.global_batch_size / task.evaluations))
    return dataclasses.replace(
        config,
        data=data_section(columns),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=int(task.warmup * steps)),
        train=dataclasses.replace(config.train, steps=steps, eval_every=every),
        checkpoint=dataclasses.replace(config.checkpoint, every=every, best=best),
    )


def _labels(examples: Sequence[Example]) -> tuple[str, ...]:
    """Those of the training examples, sorted; () where they have none."""
    found: set[str] = set()
    for example in examples:
        match example:
            case Text(label=str(label)):
                found.add(label)
            case Words(labels=tuple(labels)):
                found.update(labels)
    return tuple(sorted(found))


def _tell(name: str, split: Split) -> None:
    rows, cut = len(split.features.examples_N), split.features.cut
    note = f"; {len(cut):,} are too long and were cut, the first is {cut[0]}" if cut else ""
    log.info("%s: %s examples in %s rows%s", name, f"{len(split.examples):,}", f"{rows:,}", note)


def _result(config: Config, workdir: Path) -> Result:
    step = best_step(workdir, config)
    if step is None:
        raise UserError(f"{workdir} was left before the first evaluation: train without train.stop_at")
    metrics = read_metrics(workdir / "metrics.jsonl")[step, "validation"]
    scores = {name: value for name, value in metrics.items() if name not in ("tokens", "hours")}
    return Result(config.train.seed, workdir, step, scores)
