"""Does ModernBERT learn better than BERT at a small scale, and with which optimizer? Several seeds, a table.

    python -m tests.benchmarks.architectures --out runs/architectures [--seeds 0 1 2] [--steps 1000]

configs/mini.py and the first phase of configs/modernbert_mini.py, on the same rows of the shared corpus: the
same pieces, 30 % of them masked in the same places, batches, schedule, decay and clipping. Runs that are
there already are not made again. One run a core, side by side; time is what the processor spent on a run,
so that what runs beside it does not count.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from bert_jax.workdir.metrics_file import read_metrics
from tests.benchmarks.cores import bert_jax, each_on_a_core, parser_of, spread

BERT, MODERN = "configs/mini.py", "configs/modernbert_mini.py:pretraining"
VARIANTS: dict[str, tuple[str, str, str]] = {
    "BERT, AdamW": (BERT, "adamw", "2e-3"),
    "ModernBERT, AdamW": (MODERN, "adamw", "2e-3"),
    "ModernBERT, StableAdamW": (MODERN, "stable_adamw", "2e-3"),
    "ModernBERT, Muon": (MODERN, "muon", "2e-3"),
}
"""Config, optimizer and learning rate."""
ALIKE = (
    *("--data.tokenizer.kind", "wordpiece", "--data.tokenizer.lowercase"),
    *("--data.masking.rate", "0.3", "--data.masking.max-predictions", "20"),
    *("--optimizer.schedule", "linear", "--optimizer.warmup-steps", "200", "--optimizer.clip-norm", "1"),
    *("--optimizer.b2", "0.98", "--optimizer.weight-decay", "0.01", "--optimizer.no-decouple-lr"),
)


class Run(NamedTuple):
    losses: dict[int, float]
    """Held-out MLM loss by step, nats a token."""
    seconds: float
    """Of a processor, with imports and compilation."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = ("--data.source", args.corpus, "--data.dir", str(args.out / "data"))
    if not (args.out / "data").exists():
        bert_jax("prepare", BERT, *source, *ALIKE)

    # Seed by seed, so that a table of fewer seeds is there early.
    keys = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    runs = each_on_a_core(
        keys, lambda key, core: trained(args.out, source, *key, steps=args.steps, core=core)
    )
    steps = sorted(runs[next(iter(VARIANTS)), args.seeds[0]].losses)
    print(f"| | {' | '.join(f'loss at step {step:,}' for step in steps)} | processor minutes |")
    print("|---" * (len(steps) + 2) + "|")
    for variant in VARIANTS:
        of_seeds = [runs[variant, seed] for seed in args.seeds]
        losses = [spread([run.losses[step] for run in of_seeds], 3) for step in steps]
        minutes = statistics.median(run.seconds / 60 for run in of_seeds)
        print(f"| {variant} | {' | '.join(losses)} | {minutes:.1f} |")


def trained(out: Path, source: tuple[str, ...], variant: str, seed: int, *, steps: int, core: int) -> Run:
    config, optimizer, rate = VARIANTS[variant]
    workdir = out / f"{variant.replace(', ', '-')}-{steps}-steps-{seed}"
    time_file = workdir.with_suffix(".seconds.json")
    if not time_file.exists():
        how = ["--optimizer.name", optimizer, "--optimizer.learning-rate", rate, "--train.seed", str(seed)]
        how += ["--train.steps", str(steps), "--train.eval-every", str(-(-steps // 4))]
        how += ["--checkpoint.every", str(steps)]
        done = bert_jax("pretrain", config, *source, *ALIKE, *how, "--workdir", str(workdir), core=core)
        time_file.write_text(json.dumps(done.seconds))
    lines = read_metrics(workdir / "metrics.jsonl")
    losses = {step: m["mlm_loss"] for (step, split), m in lines.items() if split == "validation"}
    print(f"{variant}, seed {seed}: {losses[steps]:.3f}", file=sys.stderr, flush=True)
    return Run(losses, json.loads(time_file.read_text()))


if __name__ == "__main__":
    main()
