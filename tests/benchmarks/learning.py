"""The same BERT, trained by us and by Transformers in PyTorch: do both learn the same, and how fast?

    python -m tests.benchmarks.learning --out runs/learning [--steps 1500]

configs/mini.py with 30 % masked, one sequence a row (Transformers cannot pack), on the shared corpus. Both
begin with the same weights and get the same batches, schedule, clipping and AdamW; Transformers' side is its
BertForMaskedLM as it comes, with PyTorch's fused AdamW. Written are OUT/ours.jsonl and
OUT/transformers.jsonl, in the form of metrics.jsonl (`bert-jax report --reference` draws them), and a table.

Each side is a process that works for ten seconds while the other is stopped, in turn, so that a slow moment
of the machine meets both. Hours are those in which a side was at work, without the imports of its start: it
writes to OUT/SIDE.begun when they are done, on the machine's clock that all processes share.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # our side wants to be the first to import JAX and NumPy: see bert_jax/parallel/runtime.py
    from bert_jax.workdir.metrics_file import Lines

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared/data/corpus"
TURN = 10.0
"""Seconds."""


class Side(NamedTuple):
    process: subprocess.Popen
    turns: list[tuple[float, float]]
    """In which it was at work: begin and end."""

    def hours(self, begun: float, at: float) -> float:
        """At work from `begun` until `at` hours later."""
        until = begun + at * 3600
        return sum(max(0.0, min(end, until) - max(begin, begun)) for begin, end in self.turns) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--corpus", default=f"files:{CORPUS}/*.txt.gz", help="as data.source")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.side:
        SIDES[args.side](args.out)
    else:
        compare(args.out, corpus=args.corpus, steps=args.steps)


def compare(out: Path, *, corpus: str, steps: int) -> None:
    from bert_jax.workdir.metrics_file import read_metrics

    out.mkdir(parents=True)
    flags = ["--data.max-sequences-per-row", "1"]
    flags += ["--data.masking.rate", "0.3", "--data.masking.max-predictions", "20"]
    flags += ["--data.source", corpus, "--data.dir", str(out / "data")]
    flags += ["--train.steps", str(steps), "--train.log-every", "20", "--train.eval-every", "250"]
    verb = [sys.executable, "-m", "bert_jax"]
    subprocess.run([*verb, "prepare", "configs/mini.py", *flags], cwd=ROOT, check=True)
    shown = subprocess.run(
        [*verb, "show-config", "configs/mini.py", *flags], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    (out / "config.json").write_bytes(shown.stdout)

    sides = {name: start("tests.benchmarks.learning", name, out) for name in SIDES}
    take_turns(list(sides.values()))

    found = []
    for name, raw in (("ours", "workdir/metrics"), ("transformers", "theirs")):
        lines = read_metrics(out / f"{raw}.jsonl")
        begun = float((out / f"{name}.begun").read_text())
        for metrics in lines.values():
            metrics["hours"] = sides[name].hours(begun, metrics["hours"])
        write(out / f"{name}.jsonl", lines)
        found.append(lines)
    print("\n".join(report(found[0], found[1], steps)))


def start(module: str, side: str, out: Path, *arguments: str) -> Side:
    """A side of a benchmark, stopped before it does anything."""
    command = [sys.executable, "-m", module, "--out", str(out), "--side", side, *arguments]
    with (out / f"{side}.log").open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    process.send_signal(signal.SIGSTOP)
    return Side(process, [])


def take_turns(sides: list[Side]) -> None:
    while running := [side for side in sides if side.process.poll() is None]:
        for side in running:
            begin = time.monotonic()
            side.process.send_signal(signal.SIGCONT)
            try:
                side.process.wait(TURN if len(running) > 1 else None)
            except subprocess.TimeoutExpired:
                side.process.send_signal(signal.SIGSTOP)
            side.turns.append((begin, time.monotonic()))
    for side in sides:
        if side.process.returncode:
            raise SystemExit(
                f"{side.process.args} ended with {side.process.returncode}; see the log beside it"
            )


def report(ours: Lines, theirs: Lines, steps: int) -> Iterator[str]:
    yield "| step | tokens | held-out loss: ours | Transformers | difference | minutes: ours | Transformers |"
    yield "|---|---|---|---|---|---|---|"
    for place in sorted(ours.keys() & theirs.keys()):
        if place[1] == "validation":
            a, b = ours[place], theirs[place]
            yield (
                f"| {place[0]:,} | {a['tokens']:,.0f} | {a['loss']:.4f} | {b['loss']:.4f} | "
                f"{a['loss'] - b['loss']:+.4f} | {60 * a['hours']:.1f} | {60 * b['hours']:.1f} |"
            )
    distances = [
        abs(ours[step, "train"]["loss"] - theirs[step, "train"]["loss"])
        for step, split in sorted(ours.keys() & theirs.keys())
        if split == "train"
    ]
    ends = [-(-len(distances) * quarter // 4) for quarter in range(5)]
    parts = [distances[first:end] for first, end in pairwise(ends)]
    yield ""
    yield "mean distance of the training losses, by quarters of the run: " + ", ".join(
        f"{statistics.mean(part):.5f}" for part in parts
    )
    last = steps, "validation"
    yield f"hours of Transformers to ours: {theirs[last]['hours'] / ours[last]['hours']:.2f}"


def write(file: Path, lines: Lines) -> None:
    kept = (
        "tokens",
        "hours",
        "loss",
        "mlm_loss",
        "mlm_accuracy",
        "nsp_loss",
        "nsp_accuracy",
        "learning_rate",
    )
    with file.open("w") as out:
        for (step, split), metrics in sorted(lines.items()):
            fields: dict[str, Any] = {n: float(f"{metrics[n]:.6g}") for n in kept if n in metrics}
            fields["tokens"] = int(metrics["tokens"])
            out.write(json.dumps({"step": step, "split": split} | fields) + "\n")


def start_clock(side: str, out: Path) -> float:
    """Starts the clock of a side, which has its imports behind it."""
    now = time.monotonic()
    (out / f"{side}.begun").write_text(repr(now))
    return now


def our_side(out: Path) -> None:
    """`bert-jax pretrain` in OUT/workdir."""
    from bert_jax.parallel import runtime

    runtime.configure(cache=out / "compiled")
    import tensorflow  # noqa: F401

    from bert_jax.run.pretrain import pretrain
    from bert_jax.workdir.run_files import load_config

    config = load_config(out)
    start_clock("ours", out)
    pretrain(config, workdir=out / "workdir")


def transformers_side(out: Path) -> None:
    """Writes OUT/theirs.jsonl."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import tensorflow  # noqa: F401
    import torch
    import transformers

    from bert_jax.interop.initialize import resolve
    from bert_jax.training.step import init_state
    from bert_jax.workdir.run_files import load_config
    from data_pipeline.loader import Loader
    from tests.helpers.pytorch import adamw, arguments, pytorch_model

    config = load_config(out)
    spec = resolve(config)
    begun = start_clock("transformers", out)
    o, train = config.optimizer, config.train
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = pytorch_model(transformers.BertForMaskedLM, spec.network, init_state(spec).params)
    optimizer = adamw(config, model, fused=True)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, o.warmup_of(train.steps), train.steps)

    def held_out() -> float:
        total, count = 0.0, 0
        with (
            torch.no_grad(),
            Loader(config.data, split="validation", batch_size=train.global_batch_size) as loader,
        ):
            for batch in loader:
                inputs = arguments(batch)
                masked = int((inputs["labels"] != -100).sum())
                total += model.eval()(**inputs).loss.item() * masked
                count += masked
        model.train()
        return total / count

    tokens = 0
    with (
        (out / "theirs.jsonl").open("w") as file,
        Loader(config.data, split="train", batch_size=train.global_batch_size, seed=train.seed) as loader,
    ):

        def log(step: int, split: str, metrics: dict[str, float]) -> None:
            place = {"step": step, "split": split, "tokens": tokens}
            file.write(json.dumps(place | {"hours": (time.monotonic() - begun) / 3600} | metrics) + "\n")
            file.flush()

        for step, batch in zip(range(1, train.steps + 1), loader, strict=False):
            tokens += int(batch["segment_lengths"].sum())
            rate = scheduler.get_last_lr()[0]
            loss = model(**arguments(batch)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
            optimizer.step()
            scheduler.step()
            if step % train.log_every == 0:
                log(step, "train", {"loss": loss.item(), "learning_rate": rate})
            if step % train.eval_every == 0 or step == train.steps:
                log(step, "validation", {"loss": held_out()})


SIDES = {"ours": our_side, "transformers": transformers_side}

if __name__ == "__main__":
    main()
