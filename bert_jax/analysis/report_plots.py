"""The pictures of a report, each as SVG for its page and as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bert_jax.analysis.curves import Curve, curve, interpolate_x, smoothed
from bert_jax.analysis.page import plot
from bert_jax.analysis.report import RATES, Report, Run, shown_metrics

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), for the colour-blind; each run has its marker and its dashes too, for print."""
MARKERS = "os^Dv*X"
DASHES = ("-", (0, (6, 1)), (0, (2, 1)), (0, (6, 1, 1, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 3)))
GREY, RESTART, ROLLBACK = "#7b8794", "#9aa5b1", "#AA3377"
MANY = 50
"""Points from which on a curve is shown smoothed too."""
BY_COST = ("loss", "mlm_loss", "mlm_accuracy", "accuracy")
"""Drawn by tokens and hours too."""
AS_IS = ("learning_rate", "grad_norm", "mfu", "goodput")
"""Not smoothed: of a gradient it is the single large one that matters."""
MAX_POINTS = 1500
"""Points of a curve in a picture: more would not be seen, only make it large."""

PICTURES = {
    "learning_rate": ("learning_rate", "Learning rate"),
    "grad_norm": ("gradient_norm", "Gradient norm, before clipping"),
    "tokens_per_second": ("throughput", "Tokens a second"),
    "mfu": ("mfu", "Model FLOPs utilization"),
    "goodput": ("goodput", "Goodput since the last start"),
}
"""File and title of what is not a metric of an objective."""


BASELINES = {
    "unigram_loss": "unigram baseline",
    "majority_nsp_accuracy": "always the same answer",
}
"""What the legend calls a baseline."""


class Picture(NamedTuple):
    file: str
    """The name of the file without its ending."""
    title: str
    svg: str
    png: bytes


def pictures(report: Report) -> Iterator[Picture]:
    """All for which there is data.

    Raises:
      UserError: Matplotlib is not installed.
    """
    for name in shown_metrics(report.runs):
        for by in ("step", "tokens", "hours") if name in BY_COST else ("step",):
            yield from _of_metric(report, name, by=by)
    for name in RATES:
        yield from _of_metric(report, name)
    if any(run.seconds for run in report.runs):
        yield _picture("time", "Where the time went", lambda axes: _time(axes, report.runs))


def _of_metric(report: Report, name: str, *, by: str = "step") -> Iterator[Picture]:
    """One, or none where no run has the metric."""
    found = [curve(run.lines, split, name, by=by) for run in report.runs for split in ("train", "validation")]
    if not any(len(points.y) for points in found):
        return
    known = shown_metrics(report.runs)
    file, title = PICTURES[name] if name in PICTURES else (name.replace("/", "_"), known[name].title)
    if by != "step":
        file, title = f"{file}_by_{by}", f"{title}, by {by}"

    def draw(axes: Any) -> None:
        _marks(axes, report.runs[0], by=by)
        _baseline(axes, report, name)
        if name in known:
            _reference(axes, report, name, by=by)
        for at, run in enumerate(report.runs):
            _run(axes, run, name, by=by, at=at, alone=len(report.runs) == 1)
        _axes(axes, name, found, by=by)

    yield _picture(file, title, draw)


def _run(axes: Any, run: Run, name: str, *, by: str, at: int, alone: bool) -> None:
    at %= len(COLOURS)
    colour, marker, line = COLOURS[at], MARKERS[at], {"color": COLOURS[at], "ls": DASHES[at]}
    train, held_out = (curve(run.lines, split, name, by=by) for split in ("train", "validation"))
    called = f" {run.name}"  # Matplotlib shows no label that begins with an underscore
    label = "" if not len(train.y) else "train" if alone else called
    if name in AS_IS or len(train.y) < MANY:
        width = 0.8 if len(train.y) >= MANY and name != "learning_rate" else 1.4
        marks = "." if len(train.y) < 5 else ""
        axes.plot(*thinned(train), **line, lw=width, marker=marks, label=label, alpha=0.8)
    else:
        axes.plot(*thinned(train), color=colour, lw=0.6, alpha=0.35 if alone else 0.2)
        mean = Curve(train.x, smoothed(train.y))
        axes.plot(*thinned(mean), **line, lw=1.6, label=f"{label}, smoothed" if alone else label)
    if len(held_out.y):
        colour, edge = (COLOURS[1], COLOURS[1]) if alone else (colour, "black")
        label = "validation" if alone else "" if len(train.y) else called
        style: Any = {"ls": "", "marker": marker, "mew": 0.6, "mec": edge, "zorder": 3}
        size = 4.5 if len(held_out.y) < MANY else 2.5
        axes.plot(*thinned(held_out), color=colour, ms=size, label=label, **style)


def _reference(axes: Any, report: Report, name: str, *, by: str) -> None:
    train, held_out = (curve(report.reference, split, name, by=by) for split in ("train", "validation"))
    if len(train.y):
        mean = Curve(train.x, smoothed(train.y)) if len(train.y) >= MANY else train
        axes.plot(*thinned(mean), color=GREY, ls="--", lw=1.4, label="reference", zorder=2.5)
    if len(held_out.y):
        label = "" if len(train.y) else "reference"
        axes.plot(*thinned(held_out), color=GREY, ls="", marker="x", ms=4.5, label=label, zorder=2.5)


def _baseline(axes: Any, report: Report, name: str) -> None:
    metric = shown_metrics(report.runs).get(name)
    if metric is not None and metric.baseline in report.runs[0].baselines:
        value, label = report.runs[0].baselines[metric.baseline], BASELINES[metric.baseline]
        axes.axhline(value, color="black", lw=1, ls=(0, (5, 3)), label=label)


def _marks(axes: Any, run: Run, *, by: str) -> None:
    """Where the run started again, and where a spike sent it back."""
    for label, colour, style, steps in (
        ("restart", RESTART, "-", [start["step"] for start in run.events["start"][1:]]),
        ("rollback", ROLLBACK, "-.", [rollback["at"] for rollback in run.events["rollback"]]),
    ):
        for step in steps:
            axes.axvline(
                interpolate_x(run.lines, step, by=by), color=colour, lw=0.9, ls=style, label=label, zorder=1
            )


def _axes(axes: Any, name: str, found: list[Curve], *, by: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    axes.set_xlabel({"step": "step", "tokens": "tokens", "hours": "hours"}[by])
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if by != "hours":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    values = np.concatenate([points.y for points in found])
    match name:
        case "grad_norm" if values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        case "tokens_per_second":
            axes.set_ylim(0, 1.1 * values.max() or 1.0)
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        case "mfu" | "goodput":
            axes.set_ylim(0, 1.1 * values.max() or 1.0)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        case "learning_rate":
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _time(axes: Any, runs: tuple[Run, ...]) -> None:
    """A bar for each run, of what its processes did."""
    largest = max(sum(run.seconds.values()) for run in runs)
    unit, size = (
        ("hours", 3600) if largest > 2 * 3600 else ("minutes", 60) if largest > 120 else ("seconds", 1)
    )
    phases = list(dict.fromkeys(phase for run in runs for phase in run.seconds))
    left = np.zeros(len(runs))
    for phase, colour in zip(phases, COLOURS, strict=False):
        spent = np.array([run.seconds.get(phase, 0.0) / size for run in runs])
        share = f" {spent[0] * size / sum(runs[0].seconds.values()):.1%}" if len(runs) == 1 else ""
        axes.barh(range(len(runs)), spent, left=left, color=colour, ec="white", lw=0.4, label=phase + share)
        left += spent
    names = [textwrap.fill(run.name, 16) for run in runs] if len(runs) > 1 else [""]
    axes.set_yticks(range(len(runs)), names, fontsize=8)
    axes.set_ylim(len(runs) - 0.3 if len(runs) > 1 else 0.9, -0.7 if len(runs) > 1 else -0.9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(unit)


def thinned(points: Curve) -> Curve:
    """MAX_POINTS of the points at most, the highest and the lowest of each stretch: no spike gets lost."""
    if len(points.y) <= MAX_POINTS:
        return points
    stretches = np.array_split(np.arange(len(points.y)), MAX_POINTS // 2)
    ends = [(part[points.y[part].argmin()], part[points.y[part].argmax()]) for part in stretches]
    kept = np.unique(np.array(ends))
    return Curve(points.x[kept], points.y[kept])


def _picture(file: str, title: str, draw: Callable[[Any], None]) -> Picture:
    def draw_all(axes: Any) -> None:
        draw(axes)
        shown = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))  # each label once
        columns = max(1, min(3, 60 // max(map(len, shown), default=60)))
        below: Any = {"loc": "outside lower center", "ncols": columns, "fontsize": 8, "frameon": False}
        axes.figure.legend(shown.values(), shown.keys(), **below)

    return Picture(file, title, *plot(title, draw_all, inches=(4.8, 3.5)))
