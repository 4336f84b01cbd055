"""What are old weights worth under a new vocabulary? Several seeds, a table.

    python -m tests.benchmarks.transplant --out runs/transplant [--seeds 0 1 2] [--steps 500]

all-MiniLM-L6-v2 with a WordPiece vocabulary of the shared corpus: embeddings transplanted, and random ones
under the same encoder. The rows, masks and schedule are the same, and so is the head, random in all of them,
since MiniLM has none: that is most of the loss at step 0. One run a core, side by side.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from bert_jax.workdir.metrics_file import read_metrics
from tests.benchmarks.cores import MINILM, bert_jax, each_on_a_core, parser_of, spread

EMBEDDINGS = "embeddings.word_embeddings.weight"
CONFIG = "configs/mini.py"
VARIANTS = ("transplanted embeddings", "random embeddings")
ALIKE = (
    *("--model.hidden-size", "384", "--model.num-hidden-layers", "6", "--model.num-attention-heads", "12"),
    *("--model.intermediate-size", "1536", "--model.initializer-range", "0.02"),
    *("--optimizer.learning-rate", "5e-4", "--optimizer.warmup-steps", "0.1"),
    *("--train.global-batch-size", "8", "--train.log-every", "50"),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = ("--data.source", args.corpus, "--data.dir", str(args.out / "data"))
    if not (args.out / "data").exists():
        bert_jax("prepare", CONFIG, *source)

    keys = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    losses = each_on_a_core(
        keys, lambda key, core: trained(args.out, source, *key, steps=args.steps, core=core)
    )
    steps = sorted(losses[VARIANTS[0], args.seeds[0]])
    print(f"| | {' | '.join(f'loss at step {step:,}' for step in steps)} |")
    print("|---" * (len(steps) + 1) + "|")
    for variant in VARIANTS:
        of_seeds = [losses[variant, seed] for seed in args.seeds]
        print(f"| {variant} | {' | '.join(spread([m[step] for m in of_seeds], 3) for step in steps)} |")


def trained(
    out: Path, source: tuple[str, ...], variant: str, seed: int, *, steps: int, core: int
) -> dict[int, float]:
    """Held-out MLM loss by step, nats a token."""
    weights = ["--init.source", str(MINILM), "--init.vocabulary", "transplant"]
    if variant == "random embeddings":
        folder = with_random_embeddings(out, seed)
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        weights = ["--init.source", str(folder), "--model.vocab-size", str(size)]
    how = [*ALIKE, *weights, "--train.seed", str(seed)]
    losses = {}
    # An evaluation comes behind a step: the first one is so small that it changes nothing.
    for name, count, extra in ("start", 1, ["--optimizer.learning-rate", "1e-30"]), ("run", steps, []):
        workdir = out / f"{variant.replace(' ', '-')}-{name}-{count}-steps-{seed}"
        length = ["--train.steps", str(count), "--train.eval-every", str(-(-count // 5))]
        length += ["--checkpoint.every", str(count), "--workdir", str(workdir)]
        bert_jax("pretrain", CONFIG, *source, *how, *length, *extra, core=core)
        lines = read_metrics(workdir / "metrics.jsonl")
        for (step, split), metrics in lines.items():
            if split == "validation":
                losses[0 if name == "start" else step] = metrics["mlm_loss"]
    print(f"{variant}, seed {seed}: {losses[0]:.3f}, {losses[steps]:.3f}", file=sys.stderr, flush=True)
    return losses


def with_random_embeddings(out: Path, seed: int) -> Path:
    """MiniLM with the tokenizer of the corpus, and embeddings that know nothing of it."""
    folder = out / f"random-embeddings-{seed}"
    if not (folder / "model.safetensors").exists():
        shutil.copytree(out / "data/tokenizer", folder, dirs_exist_ok=True)
        size = json.loads((out / "data/manifest.json").read_text())["vocab_size"]
        fields = json.loads((MINILM / "config.json").read_text()) | {"vocab_size": size}
        (folder / "config.json").write_text(json.dumps(fields))
        tensors = safetensors.numpy.load_file(MINILM / "model.safetensors")
        shape = (size, tensors[EMBEDDINGS].shape[1])
        normal = np.random.default_rng(seed).normal(0, fields["initializer_range"], shape)
        tensors[EMBEDDINGS] = normal.astype(np.float32)
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


if __name__ == "__main__":
    main()
