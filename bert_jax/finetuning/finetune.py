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

from bert_jax.config import Config, TaskConfig
from bert_jax.config.sections import check_steps
from bert_jax.finetuning.data import Split, TaskData, make_splits
from bert_jax.interop.initialize import source_model
from bert_jax.interop.source import source_task, source_tokenizer
from bert_jax.models import encoder_of
from bert_jax.parallel.platform import local_platform
from bert_jax.parallel.processes import from_process_0
from bert_jax.run.loop import train
from bert_jax.tasks import task_of
from bert_jax.training.network import Network
from bert_jax.training.run_spec import RunSpec, best_metric, kernels_for
from bert_jax.workdir.bucket import source_folder
from bert_jax.workdir.inventory import best_step, validation_metrics
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer, load

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """The best checkpoint of one seed on the validation examples."""

    seed: int
    workdir: Path
    step: int
    scores: dict[str, float]


def finetune(config: Config, *, workdir: Path, seeds: Sequence[int] = ()) -> list[Result] | None:
    """Trains on `task.train`, and resumes where the workdir was left.

    Args:
      workdir: of the run; with `seeds` each has a workdir of its own in it, `seed-0` ...
      seeds: in place of train.seed, one run after the other.

    Returns:
      A result a seed; None if a signal stopped a run, whose state is saved.

    Raises:
      FileNotFoundError, UserError: config, source, examples or workdir cannot be used.
    """
    spec, make_data = finetuning_spec(config)
    places = {seed: workdir / f"seed-{seed}" for seed in seeds} or {config.train.seed: workdir}
    results = []
    for seed, place in places.items():
        asked = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        run = dataclasses.replace(spec, config=asked)
        if not train(run, make_data, workdir=place):
            return None
        results.append(Result(seed, place, *from_process_0(functools.partial(_best, run, place))))
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


def finetuning_spec(config: Config) -> tuple[RunSpec, functools.partial[TaskData]]:
    """What follows from the config of a fine-tuning, from its source and its examples; and the data of a run.

    Raises:
      FileNotFoundError, UserError: something that it names is missing or cannot be used.
    """
    assert config.task is not None
    task = task_of(config.task)
    task.check_libraries()
    platform = local_platform()
    model = source_model(config, platform)
    source = source_folder(str(config.init.source))
    for name in ("train", "validation"):
        if not getattr(config.task, name):
            raise UserError(f"task.{name} is not given: a file of examples, or tfds:NAME:SPLIT")
    if config.task.dropout is not None:
        model = encoder_of(model).with_dropout(model, config.task.dropout)
    if config.task.sequence_length > model.longest:
        raise UserError(
            f"task.sequence_length is {config.task.sequence_length}, but init.source "
            f"{config.init.source} has {model.longest} positions: give --task.sequence-length {model.longest}"
        )
    examples = {name: task.read(getattr(config.task, name), config.task) for name in ("train", "validation")}
    tokenizer = load(source_tokenizer(source))
    settings = _like_source(task.with_labels(config.task, examples["train"]), source, tokenizer)
    if reason := task.refuses(settings, encoder_of(model), None):
        raise UserError(reason)
    for_training, for_validation = make_splits(settings, list(examples.values()), tokenizer)
    _log_size("train", for_training)
    _log_size("validation", for_validation)
    count, network = len(for_training.features.examples_N), Network(model, task, settings)
    rows = for_training.features.shape
    epoch = count / config.train.global_batch_size
    steps = max(1, math.ceil(settings.epochs * epoch))
    warmup_steps = int(settings.warmup * steps)
    name = f"the {steps:,} steps of task.epochs {settings.epochs:g}"
    check_steps(config, steps, warmup_steps=warmup_steps, name=name)
    every = max(1, math.ceil(epoch / settings.evaluations))
    spec = RunSpec(
        config=config,
        network=network,
        rows=rows,
        steps=steps,
        warmup_steps=warmup_steps,
        eval_every=every,
        checkpoint_every=every,
        best=best_metric(network, config.checkpoint.best),
        kernels=kernels_for(network, rows, platform),
    )
    return spec, functools.partial(TaskData, train=for_training, validation=for_validation)


def _like_source(settings: TaskConfig, source: Path, tokenizer: Tokenizer) -> TaskConfig:
    """The settings of a task with what its source says of vectors, which is logged."""
    theirs = source_task(source, tokenizer) if settings.of_source else None
    if theirs is None or (like := settings.like(theirs)) == settings:
        return settings
    taken = ((name, getattr(like, name)) for name in settings.of_source)
    changed = ", ".join(f"task.{name} {x!r}" for name, x in taken if x != getattr(settings, name))
    log.info("as in init.source %s: %s", source, changed)
    return like


def _log_size(name: str, split: Split) -> None:
    rows, cut = len(split.features.examples_N), split.features.cut
    note = f"; cut, because too long: {len(cut):,}, the first is {cut[0]}" if cut else ""
    log.info("%s: %s examples in %s rows%s", name, f"{len(split.examples):,}", f"{rows:,}", note)


def _best(spec: RunSpec, workdir: Path) -> tuple[int, dict[str, float]]:
    """The step of the best checkpoint, and what was found there."""
    step = best_step(workdir, metric=spec.best)
    if step is None:
        raise UserError(f"{workdir} stopped before its first evaluation; without train.stop_at it goes on")
    return step, validation_metrics(workdir, step) or {}
