"""A report as one HTML page that needs nothing beside it, and its pictures as PNG files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from bert_jax.analysis.page import page
from bert_jax.analysis.report import Report, Run, against_reference, compared, facts
from bert_jax.analysis.report_plots import Picture, pictures

STYLE = """
body { max-width: 76rem }
.facts { overflow-x: auto }
table { font-size: .92rem }
td, th { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb; text-align: left }
td, th { vertical-align: top; font-weight: normal; min-width: 8rem }
td:first-child, .legend { color: #52606d }
thead th { font-weight: 600 }
.legend { font-size: .9rem }
.pictures { display: grid; gap: 1.5rem }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)) }
.pictures svg { width: 100%; max-width: 34rem; height: auto; display: block }
.pictures svg text { font-family: system-ui, sans-serif !important }
@media print { body { max-width: none } .pictures svg { break-inside: avoid } }
"""


def write(report: Report, folder: Path) -> Path:
    """Writes page and pictures to a folder, over those of an earlier report; returns the page's path.

    Raises:
      UserError: Matplotlib is not installed; nothing was written.
    """
    drawn = list(pictures(report))
    content = report_page(report, drawn)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        (folder / f"{picture.file}.png").write_bytes(picture.png)
    index = folder / "index.html"
    index.write_text(content, encoding="utf-8")
    return index


def report_page(report: Report, drawn: Sequence[Picture]) -> str:
    first, *others = report.runs
    parts = [f"<h1>{html.escape(first.name)}</h1><p>{html.escape(_headline(first))}"]
    for other in others:
        parts += [f"<h2>Beside {html.escape(other.name)}</h2>", _list(compared(first, other))]
    if report.reference:
        parts += ["<h2>Beside the reference</h2>", _list(against_reference(report))]
    parts += ["<h2>Curves</h2>", f"<p class=legend>{_how_to_read(report)}", "<div class=pictures>"]
    parts += [_accessible(picture) for picture in drawn]
    return page(first.name, [*parts, "</div>", "<h2>Facts</h2>", _facts(report)], style=STYLE)


def _headline(run: Run) -> str:
    known = facts(run)
    named = ("steps", "tokens", "hours", "train loss", "validation loss", "restarts")
    return "; ".join(f"{name} {known[name]}" for name in named if name in known)


def _how_to_read(report: Report) -> str:
    legend = "Thin lines are single training steps, thick ones their running mean; points are held-out data."
    first = report.runs[0]
    if first.events["start"][1:] or first.events["rollback"]:
        legend += f" Vertical lines are restarts and rollbacks of {html.escape(first.name)}."
    return legend


def _accessible(picture: Picture) -> str:
    return picture.svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(picture.title)}" ', 1)


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}" for line in lines) + "</ul>"


def _facts(report: Report) -> str:
    """A column for each run."""
    columns = [facts(run) for run in report.runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        f"<tr><td>{html.escape(name)}" + "".join(f"<td>{html.escape(c.get(name, ''))}" for c in columns)
        for name in names
    ]
    head = "<thead><tr><th>" + "".join(f"<th>{html.escape(run.name)}" for run in report.runs) + "</thead>"
    return f"<div class=facts><table>{head * (len(columns) > 1)}{''.join(rows)}</table></div>"
