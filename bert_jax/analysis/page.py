"""What our pages share: one look, nothing needed beside them, and how a plot gets on one."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from data_pipeline.errors import UserError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 2rem auto }
body { padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin-bottom: .5rem }
h2 { font-size: 1.2rem; margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
"""


class Plot(NamedTuple):
    svg: str
    """An element of a page."""
    png: bytes


def page(title: str, body: Iterable[str], *, style: str = "") -> str:
    """The whole page; `body` is HTML, `style` comes after what all pages have."""
    return "\n".join(
        [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>",
            "<meta name=viewport content='width=device-width, initial-scale=1'>",
            f"<style>{STYLE}{style}</style>",
            *body,
            "",
        ]
    )


def plot(title: str, draw: Callable[[Any], None], *, inches: tuple[float, float]) -> Plot:
    """What `draw` puts on Matplotlib's axes. Two plots of a page need two titles.

    Raises:
      UserError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"plots need Matplotlib ({error}): pip install 'bert-jax[plots]'") from error
    # Letters stay letters, since the reader's browser has fonts for all scripts, and a dollar sign begins no
    # formula. No date: same data, same page.
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "text.parse_math": False,
    }
    svg, png = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160)
    return Plot(svg.getvalue()[svg.getvalue().index("<svg") :], png.getvalue())
