"""Is a student that is distilled from a teacher better than the same student alone? Several seeds, a table.

    python -m tests.benchmarks.distillation --out runs/distillation [--seeds 0 1 2] [--steps 250]

The teacher is the first phase of configs/modernbert_mini.py, 4 layers of 128, trained once on the shared
corpus; the student has two such layers. Students have the same batches, masks and schedule, and differ in
what they learn from the teacher. Runs that are there already are not made again. One run a core, side by
side; time is what the processor spent on a run, so that what runs beside it does not count.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from bert_jax.workdir.metrics_file import read_metrics
from tests.benchmarks.cores import ROOT, bert_jax, each_on_a_core, parser_of, spread

MINI = "configs/modernbert_mini.py:pretraining"
ALIKE = (
    *("--optimizer.name", "adamw", "--optimizer.schedule", "linear", "--optimizer.warmup-steps", "0.2"),
    *("--optimizer.clip-norm", "1"),
)
STUDENT = ("--model.num-hidden-layers", "2", "--model.scan-unroll", "2")
RECIPE = """from bert_jax.config import Config, DistillationConfig, delta, load_recipe

def get_config() -> Config:
    return delta(load_recipe({mini!r}), objective=DistillationConfig(teacher={teacher!r}))
"""
"""A config file with flags for all that is learned from the teacher."""
VARIANTS: dict[str, tuple[str, ...] | None] = {
    "alone": None,
    "predictions": (),
    "predictions, relations": ("--objective.relations-weight", "1"),
}
"""What is learned from the teacher, and the flags for it; None: there is no teacher."""


class Run(NamedTuple):
    metrics: dict[int, dict[str, float]]
    """Held-out metrics by step."""
    seconds: float
    """Of a processor, with imports and compilation."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=250, help="of a student")
    parser.add_argument("--teacher-steps", type=int, default=800)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = ("--data.source", args.corpus, "--data.dir", str(args.out / "data"))
    if not (args.out / "data").exists():
        bert_jax("prepare", MINI, *source)
    teacher = args.out / f"teacher-{args.teacher_steps}-steps"
    found = trained(teacher, MINI, source, steps=args.teacher_steps)
    recipe = args.out / "student.py"
    recipe.write_text(RECIPE.format(mini=str(ROOT / MINI), teacher=str(teacher)))

    def student(key: tuple[str, int], core: int) -> Run:
        (variant, seed), flags = key, VARIANTS[key[0]]
        name = f"{variant.replace(', ', '-').replace(' ', '-')}-{args.steps}-steps-{seed}"
        config = MINI if flags is None else str(recipe)
        how = (*STUDENT, *(flags or ()), "--train.seed", str(seed))
        return trained(args.out / name, config, source, *how, steps=args.steps, core=core)

    # Seed by seed, so that a table of fewer seeds is there early.
    keys = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    runs = each_on_a_core(keys, student)
    print("| a student of 2 layers learns | MLM loss | accuracy | processor minutes |")
    print("|---|---|---|---|")
    for variant in VARIANTS:
        of_seeds = [runs[variant, seed] for seed in args.seeds]
        ends = [run.metrics[args.steps] for run in of_seeds]
        loss, accuracy = (spread([end[f"mlm_{name}"] for end in ends], 3) for name in ("loss", "accuracy"))
        minutes = statistics.median(run.seconds / 60 for run in of_seeds)
        print(f"| {variant} | {loss} | {accuracy} | {minutes:.1f} |")
    end = found.metrics[args.teacher_steps]
    print(
        f"| the teacher, {args.teacher_steps:,} steps | {end['mlm_loss']:.3f} | {end['mlm_accuracy']:.3f} | "
        f"{found.seconds / 60:.1f} |"
    )


def trained(
    workdir: Path, config: str, source: tuple[str, ...], *flags: str, steps: int, core: int | None = None
) -> Run:
    time_file = workdir.with_suffix(".seconds.json")
    if not time_file.exists():
        how = [*ALIKE, "--train.steps", str(steps), "--train.eval-every", str(-(-steps // 4))]
        how += ["--checkpoint.every", str(steps), "--workdir", str(workdir)]
        done = bert_jax("pretrain", config, *source, *flags, *how, core=core)
        time_file.write_text(json.dumps(done.seconds))
    lines = read_metrics(workdir / "metrics.jsonl")
    metrics = {step: found for (step, split), found in lines.items() if split == "validation"}
    print(f"{workdir.name}: {metrics[steps]['mlm_loss']:.3f}", file=sys.stderr, flush=True)
    return Run(metrics, json.loads(time_file.read_text()))


if __name__ == "__main__":
    main()
