"""Do replaced tokens teach more than masked ones in the same time? Several seeds, a table.

    python -m tests.benchmarks.rtd --out runs/rtd [--seeds 0 1 2] [--steps 700]

configs/mini.py and configs/electra_mini.py with two layers, the same encoder on the same rows of the shared
corpus with 30 % of their tokens masked, from which so short a run learns most (ablation.py). Replaced tokens
get as many steps as take the processor as long as --steps of masked ones; what a step takes is measured
first, so that what runs beside it does not count. Both are judged by the accuracy on SST-2's development set
after fine-tuning on the first 6,000 of its training examples. Runs that are there already are not made again.
One run a core, side by side. Losses are drawn to OUT/losses.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from bert_jax.workdir.metrics_file import read_metrics
from tests.benchmarks.ablation import SMALL, finetuned, write_examples
from tests.benchmarks.cores import SHARED, bert_jax, each_on_a_core, parser_of, spread

MASKED = "configs/mini.py"
VARIANTS = {"masked tokens": MASKED, "replaced tokens": "configs/electra_mini.py"}
ALIKE = (*SMALL, "--data.masking.rate", "0.3", "--data.masking.max-predictions", "20")


class Run(NamedTuple):
    steps: int
    metrics: dict[int, dict[str, float]]
    """Of the held-out rows, by step."""
    accuracy: float
    """On SST-2's development set."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sst2", type=Path, default=SHARED / "sst2", help="train.tsv and test.tsv")
    parser.add_argument("--steps", type=int, default=700, help="of a pretraining with masked tokens")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_examples(args)
    source = ("--data.source", args.corpus, "--data.dir", str(args.out / "data"), *ALIKE)
    if not (args.out / "data").exists():
        bert_jax("prepare", MASKED, *source)
    seconds = each_on_a_core(VARIANTS, lambda variant, core: seconds_a_step(args, source, variant, core))
    steps = {name: round(args.steps * seconds["masked tokens"] / seconds[name]) for name in VARIANTS}

    # Seed by seed, so that a table of fewer seeds is there early.
    keys = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    runs = each_on_a_core(
        keys, lambda key, core: pretrained_and_judged(args, source, *key, steps[key[0]], core)
    )
    print("| in the same time | a step | steps | MLM loss (RTD: its generator's) | SST-2 accuracy, % |")
    print("|---|---|---|---|---|")
    for variant in VARIANTS:
        of_seeds = [runs[variant, seed] for seed in args.seeds]
        loss = spread([run.metrics[run.steps]["mlm_loss"] for run in of_seeds], 3)
        accuracy = spread([100 * run.accuracy for run in of_seeds], 1)
        print(f"| {variant} | {seconds[variant]:.2f} s | {steps[variant]} | {loss} | {accuracy} |")
    draw(args.out / "losses.png", seconds, runs)


def draw(file: Path, seconds: dict[str, float], runs: dict[tuple[str, int], Run]) -> None:
    """Held-out losses by the time of a processor, a line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for (variant, seed), run in runs.items():
        minutes = [step * seconds[variant] / 60 for step in run.metrics]
        color, label = ("C0", "C1")[variant != "masked tokens"], variant if seed == 0 else None
        axes[0].plot(minutes, [m["mlm_loss"] for m in run.metrics.values()], color=color, label=label)
        if "rtd_loss" in run.metrics[run.steps]:
            axes[1].plot(minutes, [m["rtd_loss"] for m in run.metrics.values()], color=color)
    axes[0].set(xlabel="minutes of a processor", ylabel="loss of masked tokens, nats")
    axes[1].set(xlabel="minutes of a processor", ylabel="loss of replaced tokens, nats")
    axes[0].legend()
    figure.savefig(file, dpi=120)


def seconds_a_step(args: argparse.Namespace, source: tuple[str, ...], variant: str, core: int) -> float:
    """Of a processor: what 40 steps more take, by that."""
    file = args.out / f"{variant.replace(' ', '-')}.seconds.json"
    if not file.exists():
        took = {}
        for steps in (5, 10, 50):  # the first one compiles
            place = args.out / f"{variant.replace(' ', '-')}-timed-{steps}"
            how = ["--train.steps", str(steps), "--train.eval-every", "50", "--checkpoint.every", "50"]
            how += ["--train.eval-batches", "1", "--workdir", str(place)]
            took[steps] = bert_jax("pretrain", VARIANTS[variant], *source, *how, core=core).seconds
        file.write_text(json.dumps((took[50] - took[10]) / 40))
    return json.loads(file.read_text())


def pretrained_and_judged(
    args: argparse.Namespace, source: tuple[str, ...], variant: str, seed: int, steps: int, core: int
) -> Run:
    place = args.out / f"{variant.replace(' ', '-')}-{steps}-steps-{seed}"
    file = place / "accuracy.json"
    if not file.exists():
        how = ["--train.steps", str(steps), "--train.seed", str(seed)]
        how += ["--train.eval-every", str(-(-steps // 5)), "--checkpoint.every", str(steps)]
        where = ("--workdir", str(place / "pretrained"))
        bert_jax("pretrain", VARIANTS[variant], *source, *how, *where, core=core)
        accuracy = finetuned(args, place / "pretrained", place / "sst2", seed, core)
        file.write_text(json.dumps(accuracy))
        print(f"{variant}, seed {seed}: accuracy {accuracy:.3f}", file=sys.stderr, flush=True)
    lines = read_metrics(place / "pretrained/metrics.jsonl")
    metrics = {step: found for (step, split), found in lines.items() if split == "validation"}
    return Run(steps, metrics, json.loads(file.read_text()))


if __name__ == "__main__":
    main()
