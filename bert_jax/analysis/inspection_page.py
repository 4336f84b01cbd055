"""An inspection as one HTML page with plots, that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_jax.analysis.page import page, plot
from data_pipeline.inspection import (
    Histogram,
    Inspection,
    Token,
    comparison,
    document_lengths,
    facts,
    sequence_lengths,
)

STYLE = """
td, th { padding: .25rem .9rem; border-bottom: 1px solid #e4e7eb; text-align: right; font-weight: normal }
td:first-child { text-align: left; color: #52606d }
th { color: #52606d }
.plots { display: flex; flex-wrap: wrap; gap: 1rem }
.plots svg { width: 29rem; max-width: 100%; height: auto }
.row { background: #f5f7fa; padding: .8rem 1rem; border-radius: .4rem; margin: .7rem 0 }
.special { color: #9aa5b1 }
mark { padding: 0 .2em; border-radius: .25em }
.masked { background: #2563eb; color: white }
.random { background: #f59e0b }
.kept { background: #a7f3d0 }
"""


def inspection_page(inspection: Inspection) -> str:
    """The whole page.

    Raises:
      UserError: Matplotlib is not installed.
    """
    manifest, train = inspection.manifest, inspection.total("train")
    head, *lines = facts(inspection)
    plots = [
        bars("Tokens in a sequence", sequence_lengths(train, bins=16)),
        bars("Tokens in a document", document_lengths(train)),
        pieces(inspection.frequent_pieces(20)),
        ranks(train.token_counts),
    ]
    sources = "<br>".join(f"source {n}: {html.escape(s)}" for n, s in enumerate(manifest.sources, 1))
    nsp = manifest.majority_nsp_accuracy
    return page(
        "Dataset",
        [
            f"<h1>{html.escape(inspection.config.dir)}</h1>",
            f"<p>{sources}<p>{html.escape(manifest.settings['input_format'])}, "
            f"{manifest.vocab_size:,} pieces, fingerprint "
            f"<code>{manifest.fingerprint[:16]}</code>; {inspection.rows_read:,} rows were read, in order.",
            table(head, lines),
            f"<p>Loss to get under: <b>{manifest.unigram_loss:.3f}</b> nats a token, which is knowing the "
            "frequencies of the pieces and no context."
            + (f" Always the same answer to the pairs: {nsp:.1%} right." if nsp is not None else ""),
            *compared(inspection),
            f"<h2>Training rows</h2><div class=plots>{''.join(plots)}</div>",
            "<h2>As the model sees them</h2><p>To predict: <mark class=masked>hidden</mark> "
            "<mark class=random>true → random</mark> <mark class=kept>kept</mark>",
            *(f"<div class=row>{''.join(map(token, row)).strip()}</div>" for row in inspection.rows),
        ],
        style=STYLE,
    )


def compared(inspection: Inspection) -> list[str]:
    if not inspection.costs:
        return []
    head, *lines = comparison(inspection.costs)
    return ["<h2>What a text costs under two tokenizers</h2>", table(head, lines)]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    return f"<table>{row(head, 'th')}{''.join(row(line, 'td') for line in lines)}</table>"


def token(token: Token) -> str:
    space, text = " " * token.text.startswith(" "), html.escape(token.text.strip())
    if token.replacement:
        text += f" → {html.escape(token.shown)}" * (token.replacement == "random")
        return f"{space}<mark class={token.replacement}>{text}</mark>"
    if token.is_special:
        text = f"<span class=special>{text}</span>"
    return space + text


def bars(title: str, bins: Histogram) -> str:
    def draw(axes: Any) -> None:
        names, counts = [name for name, _ in bins], [count for _, count in bins]
        axes.bar(range(len(bins)), counts, color="#2563eb", width=0.9)
        axes.set_xticks(range(len(bins)), names, rotation=60, ha="right", fontsize=8)
        axes.yaxis.set_major_formatter("{x:,.0f}")

    return _plot(title, draw)


def pieces(shares: Sequence[tuple[str, float]]) -> str:
    def draw(axes: Any) -> None:
        axes.barh(range(len(shares)), [100 * share for _, share in shares], color="#2563eb")
        axes.set_yticks(range(len(shares)), [piece for piece, _ in shares], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("% of tokens")

    return _plot("Most frequent pieces", draw)


def ranks(counts: np.ndarray) -> str:
    def draw(axes: Any) -> None:
        ordered = np.sort(counts[counts > 0])[::-1]
        axes.loglog(np.arange(1, len(ordered) + 1), ordered, color="#2563eb")
        axes.set_xlabel("rank")
        axes.set_ylabel("times")

    return _plot(f"Pieces by rank ({(counts == 0).sum():,} of {len(counts):,} never occur)", draw)


def _plot(title: str, draw: Callable[[Any], None]) -> str:
    return plot(title, draw, inches=(5.6, 3.6)).svg
