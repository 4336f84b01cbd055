"""ModernBERT on TPU pods and on GPUs, rows of 1,024 and of 8,192 tokens: the table of docs/scaling.md.

    JAX_PLATFORMS=cpu python -m tests.benchmarks.modernbert_plans [--cache DIR] [--pods v5e:4x4 h100:1x8]

compiles the step of each phase at its full batch, as tests/benchmarks/scaling.py does BERT-large's, with the
microbatches that fit the chip. Phases with other numbers of rows have the same step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_jax.config import delta, load_recipe
from bert_jax.interop.initialize import resolve
from bert_jax.planning.plan import find_pod, plan
from tests.benchmarks.scaling import ROOT, print_header, row

PODS = ("v5e:4x4", "v5p:4x4x4", "h100:1x8")
ROWS = {
    ("modernbert_base", "pretraining"): (12, 72, 48),
    ("modernbert_base", "context_extension"): (1, 9, 6),
    ("modernbert_large", "pretraining"): (6, 36, 24),
    ("modernbert_large", "context_extension"): (1, 3, 3),
}
"""Recipe and phase -> rows of a microbatch on a chip of each of PODS."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path("runs/compiled"))
    parser.add_argument("--pods", nargs="+", choices=PODS, default=PODS)
    arguments = parser.parse_args()
    print_header("recipe")
    for (recipe, phase), all_rows in ROWS.items():
        config = load_recipe(f"{ROOT}/configs/{recipe}.py:{phase}")
        for topology, rows in zip(PODS, all_rows, strict=True):
            if topology not in arguments.pods:
                continue
            pod = find_pod(topology)
            chips = len(pod.devices)
            microbatches = config.train.global_batch_size // chips // rows
            # The state of large leaves a chip of 16 GiB little room.
            fsdp = chips if (recipe, topology) == ("modernbert_large", "v5e:4x4") else 1
            changed = delta(
                config,
                model={"scan_unroll": 1},
                train={"microbatches": microbatches},
                mesh={"fsdp": fsdp},
            )
            found = plan(resolve(changed, platform=pod.platform), pod, cache=arguments.cache)
            print(row(found, recipe), flush=True)


if __name__ == "__main__":
    main()
