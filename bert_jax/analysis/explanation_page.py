"""An explanation as one HTML page that needs nothing beside it."""

from __future__ import annotations

import html
import json

import numpy as np

from bert_jax.analysis.explain import Explanation
from bert_jax.analysis.page import page

STYLE = """
.text { background: #f5f7fa; padding: 1rem; border-radius: .4rem; line-height: 2.2 }
.text span { padding: .25em .15em; border-radius: .25em }
.legend { color: #52606d; font-size: .9rem }
.legend i { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle; border-radius: .2rem }
td { padding: .1rem .6rem .1rem 0 }
td.bar { width: 18rem; max-width: 45vw }
td.bar div { height: .8rem; border-radius: .2rem }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: .6rem }
@media (min-width: 48rem) { .maps { grid-template-columns: repeat(var(--heads), minmax(0, 7rem)) } }
.maps button { border: 0; background: none; padding: 0; font: inherit; font-size: .75rem; color: #52606d }
.maps button { cursor: pointer }
.maps canvas { width: 100%; image-rendering: pixelated; border: 1px solid #e4e7eb; display: block }
.maps .on canvas { outline: 2px solid #2563eb }
#large { overflow-x: auto; margin-top: 1.5rem }
#large table { font-size: .75rem }
#large td { padding: 0; width: 1.3rem; min-width: 1.3rem; height: 1.3rem }
#large th { font-weight: normal; color: #52606d; text-align: right; padding-right: .4rem }
#large th { white-space: nowrap }
#large thead th { writing-mode: vertical-rl; text-align: left; padding: 0 0 .4rem 0 }
"""

STRONGEST = 12
"""Tokens in the list."""
MAX_NUMBERS = 3_000_000
"""Most cells of all attention maps: those of 144 tokens in BERT-base. Browsers take long for more."""

SCRIPT = """
const {tokens, maps} = JSON.parse(document.getElementById("data").textContent);
const colour = p => `rgba(37, 99, 235, ${Math.sqrt(p)})`;
const grid = document.getElementById("maps");
function show(layer, head, button) {
  for (const other of grid.children) other.classList.toggle("on", other === button);
  const table = document.createElement("table");
  const top = table.createTHead().insertRow();
  top.append(document.createElement("th"));
  for (const token of tokens) {
    const cell = document.createElement("th");
    cell.textContent = token;
    top.append(cell);
  }
  const body = table.createTBody();
  maps[layer][head].forEach((row, query) => {
    const line = body.insertRow();
    const name = document.createElement("th");
    name.textContent = tokens[query];
    line.append(name);
    row.forEach((p, key) => {
      const cell = line.insertCell();
      cell.style.background = colour(p);
      cell.title = `${tokens[query]} takes ${p} of ${tokens[key]}`;
    });
  });
  const title = document.createElement("p");
  title.textContent = `Layer ${layer + 1}, head ${head + 1}: what a row's token takes of each.`;
  document.getElementById("large").replaceChildren(title, table);
}
maps.forEach((heads, layer) => heads.forEach((map, head) => {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = tokens.length;
  const context = canvas.getContext("2d");
  map.forEach((row, y) => row.forEach((p, x) => {
    context.fillStyle = colour(p);
    context.fillRect(x, y, 1, 1);
  }));
  button.append(canvas, `layer ${layer + 1}, head ${head + 1}`);
  button.onclick = () => show(layer, head, button);
  grid.append(button);
}));
show(0, 0, grid.firstChild);
"""


def explanation_page(explanation: Explanation) -> str:
    """The whole page. Blue is for the prediction and orange against it, also to colour-blind eyes."""
    strongest = max(map(abs, explanation.attributions)) or 1.0
    pairs = list(zip(explanation.tokens, explanation.attributions, strict=True))
    text = " ".join(_coloured(token, value, strongest) for token, value in pairs)
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1]))[:STRONGEST]
    bars = "".join(_bar(token, value, strongest) for token, value in ranked)
    target = html.escape(explanation.target)
    body = f"""<h1>{html.escape(explanation.prediction)}</h1>
<p class=text>{text}</p>
<p class=legend>{_ramp(-1)} against &nbsp; {_ramp(1)} for</p>
<h2>What the prediction rests on</h2>
<p>The {target} is {explanation.output:.4f}; with every word empty it is {explanation.baseline:.4f}.
Integrated gradients share the difference among the tokens; the convergence delta is
{explanation.convergence_delta:.2g}.</p>
<table>{bars}</table>
<h2>Where each head looks</h2>
{_maps(explanation)}"""
    return page("Explanation", [body], style=STYLE)


def _maps(explanation: Explanation) -> str:
    found = explanation.attentions
    if found.size > MAX_NUMBERS:
        return (
            f"<p>The attention maps are {found.size:,} numbers, too many for a page: --json FILE writes them."
        )
    fields = {"tokens": explanation.tokens, "maps": found.astype(np.float64).round(3).tolist()}
    # In a script element nothing is escaped; a "<" could end it.
    data = json.dumps(fields, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<div class=maps id=maps style="--heads:{found.shape[1]}"></div><div id=large></div>
<script type="application/json" id=data>{data}</script><script>{SCRIPT}</script>"""


def _coloured(token: str, value: float, strongest: float) -> str:
    colour = _colour(value / strongest)
    return f'<span style="background:{colour}" title="{value:+.4f}">{html.escape(token)}</span>'


def _colour(share: float) -> str:
    """The colour of an attribution from -1 to 1."""
    red, green, blue = (37, 99, 235) if share > 0 else (234, 118, 0)
    return f"rgba({red},{green},{blue},{0.55 * min(1.0, abs(share)):.3f})"


def _ramp(share: float) -> str:
    return f'<i style="background:linear-gradient(to right, transparent, {_colour(share)})"></i>'


def _bar(token: str, value: float, strongest: float) -> str:
    width = round(100 * abs(value) / strongest)
    bar = f'<div style="width:{width}%;background:{_colour(1 if value > 0 else -1)}"></div>'
    return f"<tr><td>{html.escape(token)}<td>{value:+.4f}<td class=bar>{bar}"
