"""BERT-large on TPU pods and on GPUs, both phases, as their compilers see it: the tables of docs/scaling.md.

    JAX_PLATFORMS=cpu python -m tests.benchmarks.scaling [--cache DIR] [--pods v5p:8x8x8 h100:4x8]

compiles each step for its pod (one to three minutes each on two cores) and prints the table in Markdown;
`--reports` prints the whole plans. It needs the extra `tpu`, or `cuda` for h100:4x8, and neither a TPU nor a
GPU. Batches are those of You et al. (2020), 65,536 rows of 128, then 32,768 rows of 512, with LAMB; steps
those of configs/bert_large_lamb.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
from pathlib import Path

from bert_jax.config import Config, load_recipe
from bert_jax.interop.initialize import resolve
from bert_jax.planning.plan import Plan, find_pod, plan, report

ROOT = Path(__file__).resolve().parents[2]
PHASES = {128: (65_536, 7_038, 2_000), 512: (32_768, 1_563, 200)}
"""Row length -> global batch, steps, steps of warm-up."""
ROWS = {
    ("v5e:16x16", 128): 32,
    ("v5e:16x16", 512): 4,
    ("v4:8x8x8", 128): 64,
    ("v4:8x8x8", 512): 16,
    ("v5p:8x8x8", 128): 128,
    ("v5p:8x8x8", 512): 32,
    ("h100:4x8", 128): 128,
    ("h100:4x8", 512): 32,
}
"""Pod and row length -> rows of a microbatch on a chip."""
CHIPS = {"v5e:16x16": 256, "v4:8x8x8": 512, "v5p:8x8x8": 512, "h100:4x8": 32}


def config_of(topology: str, length: int) -> Config:
    base = load_recipe(ROOT / "configs/bert_large.py")
    batch, steps, warmup = PHASES[length]
    masking = dataclasses.replace(base.data.masking, max_predictions=20 if length == 128 else 77)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, scan_unroll=1),
        data=dataclasses.replace(base.data, sequence_length=length, masking=masking),
        optimizer=dataclasses.replace(
            base.optimizer, name="lamb", learning_rate=4e-3, warmup_steps=warmup, end_learning_rate=0.0
        ),
        train=dataclasses.replace(
            base.train,
            global_batch_size=batch,
            microbatches=batch // CHIPS[topology] // ROWS[topology, length],
            steps=steps,
        ),
    )


def row(found: Plan, *labels: str) -> str:
    """Of the table, in Markdown."""
    spec, compiled, seconds = found.spec, found.compiled, found.seconds
    sent = sum(c.bytes * c.times for c in compiled.collectives)
    cells = [
        *labels,
        found.pod.name,
        f"{spec.rows.sequence_length}",
        f"{found.rows} x {spec.config.train.microbatches}",
        f"{(found.parameters + found.optimizer) / 2**30:.1f} GiB",
        f"{compiled.temporary / 2**30:.1f} GiB" if not compiled.refused else "",
        f"{compiled.memory / 2**30:.1f} of {found.pod.memory / 2**30:.0f} GiB"
        + ("" if found.fits else ", does not fit"),
        f"{compiled.memory / found.floor:.2f}",
    ]
    if found.fits:
        hours = found.step_seconds * spec.whole_steps / 3600
        cells += [
            f"{sent / 2**30:.2f} GiB",
            f"{seconds['compute'] * 1e3:,.0f} ms",
            f"{found.step_seconds * 1e3:,.0f} ms",
            f"{hours:.2f} h, {hours * found.devices:,.0f} chip-hours",
        ]
    return "| " + " | ".join(cells) + " |"


def print_header(*labels: str) -> None:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax")]
    print(f"Compiled, not run, on {datetime.date.today()} with {', '.join(versions)}.\n")
    columns = (
        *labels,
        "pod",
        "S",
        "rows a chip x microbatches",
        "state",
        "temporary",
        "memory of a chip",
        "of the floor",
        "reduced a step",
        "products, at best",
        "step, at best",
        "phase, at best",
    )
    print(f"| {' | '.join(columns)} |")
    print("|" + " --- |" * len(columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/compiled"))
    parser.add_argument("--pods", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--reports", action="store_true")
    arguments = parser.parse_args()
    if not arguments.reports:
        print_header()
    for topology, length in ROWS:
        if topology in arguments.pods:
            pod = find_pod(topology)
            spec = resolve(config_of(topology, length), platform=pod.platform)
            found = plan(spec, pod, cache=arguments.cache)
            print("\n".join([*report(found), ""]) if arguments.reports else row(found), flush=True)


if __name__ == "__main__":
    main()
