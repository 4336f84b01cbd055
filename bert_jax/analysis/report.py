"""A report on a run: its curves, what happened, how it compares with others. Text, no pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.analysis.compare import first_difference
from bert_jax.analysis.curves import MIN_STEPS, STANDARD_ERRORS, Divergence, curve, divergence
from bert_jax.config.as_json import differences
from bert_jax.objectives.objective import Metric
from bert_jax.training.network import count_parameters
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.history import History
from bert_jax.workdir.metrics_file import Lines, read_metrics
from bert_jax.workdir.run_files import CONFIG_FILE, load_spec
from data_pipeline.errors import UserError

EVENTS = ("start", "end", "rollback", "skipped", "damaged")
LOSS = Metric("loss", "Loss", higher_is_better=False)
PHASES = ("step", "compile", "input", "evaluation", "save", "start")
"""The phases of `Clock`, in the order in which they are shown."""


@dataclass(frozen=True)
class Run:
    name: str
    spec: RunSpec
    lines: Lines
    events: dict[str, list[dict[str, Any]]]
    """The entries of history.jsonl, by kind."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What its objective reports, loss first."""
        found = self.spec.network.objective.metrics(self.spec.network.settings)
        return found if found[0].name == LOSS.name else (LOSS, *found)

    @property
    def baselines(self) -> dict[str, float]:
        """What a model reaches that knows no context, as the last start has it."""
        found = [start["baselines"] for start in self.events["start"] if "baselines" in start]
        return found[-1] if found else {}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, of all processes that came to an end of their own."""
        total: dict[str, float] = {}
        for end in self.events["end"]:
            for phase, spent in end["seconds"].items():
                total[phase] = total.get(phase, 0.0) + spent
        known = {phase: total.pop(phase) for phase in PHASES if phase in total}
        return known | total


@dataclass(frozen=True)
class Report:
    runs: tuple[Run, ...]
    """The first is the one that the report is about."""
    reference: Lines
    """Empty if there is none."""


def read(workdir: Path, *, compare: Sequence[Path] = (), reference: Path | None = None) -> Report:
    """Reads the runs, and a metrics.jsonl as reference.

    Raises:
      FileNotFoundError, UserError: a folder holds no run or no metrics yet, or the runs are of other kinds.
    """
    workdirs = [workdir, *compare]
    names = [folder.resolve().name for folder in workdirs]
    if len(set(names)) < len(names):
        names = list(map(str, workdirs))
    runs = tuple(_read_run(folder, name) for folder, name in zip(workdirs, names, strict=True))
    for folder, run in zip(workdirs, runs, strict=True):
        kinds = [one.spec.config.task and one.spec.config.task.kind for one in (run, runs[0])]
        if kinds[0] != kinds[1]:
            ours, theirs = (kind or "pretraining alone" for kind in kinds)
            raise UserError(
                f"{folder} is a run for {ours} and {workdir} for {theirs}: they have no metrics to compare"
            )
    if reference is None:
        return Report(runs, {})
    if not reference.is_file():
        raise FileNotFoundError(
            f"there is no reference {reference}; give a file such as metrics.jsonl of a run"
        )
    known = read_metrics(reference, finished=True)
    if not known:
        raise UserError(f"the reference {reference} is empty; give a file such as metrics.jsonl of a run")
    return Report(runs, known)


def _read_run(workdir: Path, name: str) -> Run:
    metrics = workdir / "metrics.jsonl"
    if not (workdir / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{workdir} holds no run: it has no {CONFIG_FILE}; give the --workdir of one")
    spec = load_spec(workdir)
    lines = read_metrics(metrics) if metrics.is_file() else {}
    if not lines:
        raise UserError(
            f"{metrics} has no metrics yet; a run writes the first at step {spec.config.train.log_every}"
        )
    history = History(workdir)
    events = {event: history.events(event) for event in EVENTS}
    return Run(name, spec, lines, events)


def facts(run: Run) -> dict[str, str]:
    """What a person asks of a run, by name."""
    config, network = run.spec.config, run.spec.network
    model = network.model
    found = {
        "model": f"{model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_attention_heads} heads, {model.vocab_size:,} pieces",
        "parameters": f"{count_parameters(network):,}",
        "data": config.task.train if config.task else f"{config.data.source} in {config.data.dir}",
        "trained for": network.settings.kind,
        "steps": f"{max(step for step, _ in run.lines):,}",
    }
    for name, form in ("tokens", ",.0f"), ("hours", ",.2f"):
        if values := [metrics[name] for metrics in run.lines.values() if name in metrics]:
            found[name] = f"{max(values):{form}}"
    return found | _losses(run) | _speed(run) | _incidents(run) | _origin(run)


def _losses(run: Run) -> dict[str, str]:
    found = {}
    train, held_out = (curve(run.lines, split, "loss") for split in ("train", "validation"))
    if len(train.y):
        found["train loss"] = f"{train.y[-1]:.4f} at step {train.x[-1]:,.0f}"
    if len(held_out.y):
        best = int(held_out.y.argmin())
        found["validation loss"] = f"{held_out.y[-1]:.4f} at step {held_out.x[-1]:,.0f}"
        found["best validation loss"] = f"{held_out.y[best]:.4f} at step {held_out.x[best]:,.0f}"
    for name in shown_metrics([run]):
        values = curve(run.lines, "validation", name).y
        if name != "loss" and len(values):
            found[f"validation {name}"] = f"{values[-1]:.4f}"
    for metric in run.metrics:
        if metric.baseline is None or metric.baseline not in run.baselines:
            continue
        known = run.baselines[metric.baseline]
        found[metric.baseline] = f"{known:.4f}"
        values = curve(run.lines, "validation", metric.name).y
        if len(values):
            side = "above" if values[-1] > known else "below"
            found[metric.baseline] += (
                f"; the validation {metric.name} is {abs(values[-1] - known):.4f} {side}"
            )
    return found


def _speed(run: Run) -> dict[str, str]:
    found = {}
    rates, mfu = (curve(run.lines, "train", name).y for name in ("tokens_per_second", "mfu"))
    if len(rates):
        found["throughput"] = f"{np.median(rates):,.0f} tokens/s (median)"
    if len(mfu):
        found["MFU"] = f"{np.median(mfu):.1%} (median)"
    if total := sum(run.seconds.values()):
        ended, started = len(run.events["end"]), len(run.events["start"])
        found["goodput"] = f"{run.seconds.get('step', 0.0) / total:.1%} of {total:,.0f} s"
        if ended < started:
            found["goodput"] += f", in the {ended} of {started} processes that logged their end"
    elif len(shares := curve(run.lines, "train", "goodput").y):
        found["goodput"] = f"{shares[-1]:.1%} of the last process"
    return found


def _incidents(run: Run) -> dict[str, str]:
    restarts = [f"{start['step']:,}" for start in run.events["start"][1:]]
    rollbacks = [f"{back['at']:,} to {back['to']:,}" for back in run.events["rollback"]]
    skipped = curve(run.lines, "train", "skipped_steps").y
    found = {
        "restarts": f"{len(restarts)}" + _places(" (from step ", restarts),
        "rollbacks": f"{len(rollbacks)}" + _places(" (from step ", rollbacks),
        "skipped steps": f"{skipped[-1] if len(skipped) else 0:.0f}",
    }
    if damaged := [f"{entry['step']:,}" for entry in run.events["damaged"]]:
        found["damaged checkpoints"] = f"{len(damaged)}" + _places(" (of step ", damaged)
    return found


def _places(before: str, places: list[str], most: int = 5) -> str:
    if not places:
        return ""
    return before + "; ".join(places[:most]) + (" ..." if len(places) > most else "") + ")"


def _origin(run: Run) -> dict[str, str]:
    """What the last start ran, and on what."""
    if not run.events["start"]:
        return {}
    start = run.events["start"][-1]
    return {
        "device": f"{start['devices']} x {start['device']}, processes: {start['processes']}",
        "versions": ", ".join(f"{name} {version}" for name, version in start["versions"].items()),
        "revision": start["revision"] or "unknown",
    }


RATES = ("learning_rate", "grad_norm", "tokens_per_second", "mfu", "goodput")


def shown_metrics(runs: Sequence[Run]) -> dict[str, Metric]:
    """The metrics that say what was learned, by name: those of the objectives first, in their order.

    A loss that is the only one is shown once, as `loss`.
    """
    named = {name for run in runs for metrics in run.lines.values() for name in metrics}
    named -= {"tokens", "hours", "skipped_steps", *RATES}
    known = {metric.name: metric for run in runs for metric in run.metrics}
    known = {name: metric for name, metric in known.items() if name in named}
    further = {name for name in named - known.keys() if not name.endswith("_loss")}
    return known | {name: Metric(name, name.replace("_", " ").capitalize()) for name in sorted(further)}


def compared(one: Run, other: Run) -> list[str]:
    """How two runs differ: their configs, the first number, the first loss that is not noise."""
    found = differences(one.spec.config, other.spec.config) or ["the configs are the same"]
    common = len(one.lines.keys() & other.lines.keys())
    difference = first_difference(one.lines, other.lines)
    if not common:
        found.append("no step was logged by both")
    elif difference is None:
        found.append(f"no number differs in the {common:,} lines that both have")
    else:
        found.append(
            f"the first number that differs: {difference.split} {difference.name} at step "
            f"{difference.step:,}, {difference.one!r} and {difference.other!r}"
        )
    if common:
        found.append(_describe(divergence(one.lines, other.lines)))
    return found


def _describe(apart: Divergence | None) -> str:
    if apart is None:
        return (
            f"fewer than {MIN_STEPS} train losses are of steps that both have logged: too few to tell noise"
        )
    first = "nowhere" if apart.first is None else f"first at step {apart.first:,}"
    side = "higher" if apart.difference > 0 else "lower"
    return (
        f"the smoothed train losses differ by more than noise {first}; at step {apart.last:,} that of the "
        f"other is {abs(apart.difference):.4f} {side}. Noise is up to {apart.noise:.4f}: {STANDARD_ERRORS} "
        f"standard errors of the mean of {apart.window} differences, by their scatter around that mean"
    )


def against_reference(report: Report) -> Iterator[str]:
    """The losses of the first run and of the reference, at the last step that both have logged."""
    run = report.runs[0]
    for split in ("train", "validation"):
        a, b = curve(run.lines, split, "loss"), curve(report.reference, split, "loss")
        steps, in_a, in_b = np.intersect1d(a.x, b.x, return_indices=True)
        if len(steps):
            ours, its = a.y[in_a[-1]], b.y[in_b[-1]]
            both = f"{ours:.4f}, of the reference {its:.4f}"
            yield f"{split} loss at step {steps[-1]:,.0f}: {both} ({ours - its:+.4f})"
        else:
            yield f"{split} loss: no step is in both the run and the reference"


def summary(report: Report) -> Iterator[str]:
    """Lines to print."""
    for run in report.runs:
        yield run.name
        for name, value in facts(run).items():
            yield f"  {name:24s}{value}"
    for other in report.runs[1:]:
        yield f"{report.runs[0].name} beside {other.name}"
        yield from (f"  {line}" for line in compared(report.runs[0], other))
    if report.reference:
        yield "beside the reference"
        yield from (f"  {line}" for line in against_reference(report))
