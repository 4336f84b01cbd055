"""What masking and objective are worth at a small scale: the same steps, several seeds, a table with spread.

    python -m tests.benchmarks.ablation --out runs/ablation [--seeds 0 1 2] [--steps 1500]

Each variant of configs/mini.py (with two layers) is pretrained on the shared corpus and judged in two ways
that are the same for all: the MLM loss on held-out running text with 15 % of its tokens masked, and the
accuracy on SST-2's development set after fine-tuning on the first 6,000 of its training examples. Runs that
are there already are not made again. One run a core, side by side: quality is compared here, not speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path

from bert_jax.workdir.metrics_file import read_metrics
from tests.benchmarks.cores import ROOT, SHARED, bert_jax, each_on_a_core, parser_of, spread

EXAMPLES = 6000
SMALL = ("--model.num-hidden-layers", "2", "--model.scan-unroll", "2")
PAIRS = ("--data.input-format", "next_sentence", "--data.max-sequences-per-row", "1")
VARIANTS: dict[str, tuple[str, ...]] = {
    "single tokens, 15 %, running text": (),
    "whole words": ("--data.masking.strategy", "whole_word"),
    "30 %": ("--data.masking.rate", "0.3", "--data.masking.max-predictions", "20"),
    "with next sentences": PAIRS,
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sst2", type=Path, default=SHARED / "sst2", help="train.tsv and test.tsv")
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_examples(args)

    for rows in ((), PAIRS):
        if not _data(args.out, rows).exists():
            bert_jax("prepare", "configs/mini.py", *_source(args, rows), *rows)
    # Seed by seed, so that a table of fewer seeds is there early.
    keys = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    found = each_on_a_core(keys, lambda key, core: pretrain_and_judge(args, *key, core))
    random = [("random weights", seed) for seed in args.seeds]
    found |= each_on_a_core(random, lambda key, core: judge_random_weights(args, key[1], core))
    print(f"{args.steps} steps, seeds {', '.join(map(str, args.seeds))}\n")
    print("| variant | held-out MLM loss | SST-2 accuracy, % |\n|---|---|---|")
    for variant in (*VARIANTS, "random weights"):
        losses, accuracies = zip(*(found[variant, seed] for seed in args.seeds), strict=True)
        print(f"| {variant} | {spread(losses, 3)} | {spread([100 * a for a in accuracies], 1)} |")


def pretrain_and_judge(args: argparse.Namespace, variant: str, seed: int, core: int) -> tuple[float, float]:
    """Held-out MLM loss, and accuracy on SST-2."""
    flags, place = VARIANTS[variant], _place(args, variant, seed)
    file = place / "judged.json"
    if not file.exists():
        source = _source(args, PAIRS if "next_sentence" in flags else ())
        steps = ["--train.seed", str(seed), "--train.steps", str(args.steps)]
        steps += ["--train.eval-every", str(args.steps)]
        where = ("--workdir", str(place / "pretrained"))
        bert_jax("pretrain", "configs/mini.py", *source, *SMALL, *flags, *steps, *where, core=core)
        accuracy = finetuned(args, place / "pretrained", place / "sst2", seed, core)
        loss = loss_on_running_text(place / "pretrained", _data(args.out, ()))
        file.write_text(json.dumps([loss, accuracy]))
        print(
            f"{variant}, seed {seed}: loss {loss:.3f}, accuracy {accuracy:.3f}", file=sys.stderr, flush=True
        )
    loss, accuracy = json.loads(file.read_text())
    return loss, accuracy


def judge_random_weights(args: argparse.Namespace, seed: int, core: int) -> tuple[float, float]:
    """Of the same shape; they have no loss that says anything."""
    source = _place(args, next(iter(VARIANTS)), seed) / "pretrained"
    place = _place(args, "random", seed)
    return math.nan, finetuned(args, source, place, seed, core, "--init.no-weights")


def write_examples(args: argparse.Namespace) -> None:
    """The first EXAMPLES that SST-2 has to train on, for `finetuned`."""
    with (args.sst2 / "train.tsv").open() as file:
        (args.out / "sst2.tsv").write_text("".join(islice(file, EXAMPLES + 1)))


def finetuned(
    args: argparse.Namespace, source: Path, workdir: Path, seed: int, core: int, *flags: str
) -> float:
    """Accuracy on SST-2's development set."""
    task = ("--task.train", f"{args.out}/sst2.tsv", "--task.validation", f"{args.sst2}/test.tsv")
    how = ("--task.sequence-length", "64", "--task.epochs", "3", "--optimizer.learning-rate", "3e-4")
    where = ("--init.source", str(source), "--workdir", str(workdir), "--train.seed", str(seed))
    bert_jax("finetune", "configs/finetune_classification.py", *task, *how, *where, *flags, core=core)
    lines = read_metrics(workdir / "metrics.jsonl")
    return max(metrics["accuracy"] for (_, split), metrics in lines.items() if split == "validation")


def loss_on_running_text(workdir: Path, data: Path) -> float:
    """The MLM loss on the validation rows of another dataset than perhaps the run's own."""
    code = (
        "import sys; from pathlib import Path; from tests.benchmarks.ablation import _loss; "
        "print(_loss(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(workdir), str(data)], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return float(said.stdout)


def _loss(workdir: Path, data: Path) -> float:
    import jax

    from bert_jax.config import load_recipe
    from bert_jax.interop.load import load_workdir
    from bert_jax.parallel import sharding
    from bert_jax.run.evaluate import compile_eval_step, evaluate
    from data_pipeline.loader import Loader

    spec, params, _ = load_workdir(workdir)
    rows = dataclasses.replace(load_recipe(ROOT / "configs/mini.py").data, dir=str(data))
    mesh = sharding.make_mesh(spec.config.mesh)
    step = compile_eval_step(spec, mesh)
    with jax.set_mesh(mesh), Loader(rows, split="validation", batch_size=64, rows=range(64)) as loader:
        metrics = evaluate(spec, params, step=step, mesh=mesh, loader=loader)
    assert metrics is not None
    return metrics["mlm_loss"]


def _place(args: argparse.Namespace, variant: str, seed: int) -> Path:
    name = variant.replace(" ", "-").replace(",", "").replace("%", "percent")
    return args.out / f"{name}-{args.steps}-steps-{seed}"


def _data(out: Path, rows: tuple[str, ...]) -> Path:
    return out / ("pairs" if rows else "text")


def _source(args: argparse.Namespace, rows: tuple[str, ...]) -> tuple[str, ...]:
    return "--data.source", args.corpus, "--data.dir", str(_data(args.out, rows))


if __name__ == "__main__":
    main()
