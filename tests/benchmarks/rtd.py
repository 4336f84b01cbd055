"""Do replaced tokens teach more than masked ones in the same time? Several seeds, a table.

    python -m tests.benchmarks.rtd --out runs/rtd [--seeds 0 1 2] [--hours 0.15]

configs/mini.py and configs/electra_mini.py with two layers, the same encoder on the same rows of the shared
corpus with 30 % of their tokens masked, from which so short a run learns most (ablation.py); each for so long
on a core of its own, side by side: keep everything else off the machine. Both are judged by the accuracy on
SST-2's development set after fine-tuning on the first 6,000 of its training examples. Runs that are there
already are not made again.
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

VARIANTS = {"masked tokens": "configs/mini.py", "replaced tokens": "configs/electra_mini.py"}
ALIKE = (*SMALL, "--data.masking.rate", "0.3", "--data.masking.max-predictions", "20")
SCALE = 4000
"""The steps of a schedule that the clock stretches."""


class Run(NamedTuple):
    steps: int
    metrics: dict[str, float]
    """Of the held-out rows, at the last step."""
    accuracy: float
    """On SST-2's development set."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sst2", type=Path, default=SHARED / "sst2", help="train.tsv and test.tsv")
    parser.add_argument("--hours", type=float, default=0.15, help="of a pretraining")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_examples(args)
    source = ("--data.source", args.corpus, "--data.dir", str(args.out / "data"))
    if not (args.out / "data").exists():
        bert_jax("prepare", "configs/mini.py", *source)

    # Seed by seed, so that a table of fewer seeds is there early.
    keys = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    runs = each_on_a_core(keys, lambda key, core: pretrained_and_judged(args, source, *key, core))
    print("| in the same time | steps | held-out MLM loss (RTD: of its generator) | SST-2 accuracy, % |")
    print("|---|---|---|---|")
    for variant in VARIANTS:
        of_seeds = [runs[variant, seed] for seed in args.seeds]
        steps = spread([run.steps for run in of_seeds], 0)
        loss = spread([run.metrics["mlm_loss"] for run in of_seeds], 3)
        print(f"| {variant} | {steps} | {loss} | {spread([100 * run.accuracy for run in of_seeds], 1)} |")


def pretrained_and_judged(
    args: argparse.Namespace, source: tuple[str, ...], variant: str, seed: int, core: int
) -> Run:
    place = args.out / f"{variant.replace(' ', '-')}-{args.hours}-hours-{seed}"
    file = place / "accuracy.json"
    if not file.exists():
        how = ["--train.budget", f"{args.hours} hours", "--train.steps", str(SCALE)]
        how += ["--train.seed", str(seed), "--train.eval-every", "200", "--checkpoint.every", "1000"]
        how += [*ALIKE, "--workdir", str(place / "pretrained")]
        bert_jax("pretrain", VARIANTS[variant], *source, *how, core=core)
        accuracy = finetuned(args, place / "pretrained", place / "sst2", seed, core)
        file.write_text(json.dumps(accuracy))
        print(f"{variant}, seed {seed}: accuracy {accuracy:.3f}", file=sys.stderr, flush=True)
    lines = read_metrics(place / "pretrained/metrics.jsonl")
    found = {step: metrics for (step, split), metrics in lines.items() if split == "validation"}
    return Run(max(found), found[max(found)], json.loads(file.read_text()))


if __name__ == "__main__":
    main()
