"""Verbs for runs: what is in a workdir, and how it went."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from bert_jax.cli.flags import FromFile, at_least_1, compiled_programs
from bert_jax.parallel.exit_status import DIFFERENT, OK, USER_ERROR


@dataclass(frozen=True)
class Evaluate:
    """Held-out metrics of the latest checkpoint, beside what knowing no context would reach."""

    config: FromFile
    workdir: Path
    detailed: bool = False
    """Also by the frequency of the tokens, and the pseudo-perplexity: every token masked by itself."""
    rows: int = 64
    """Rows for the pseudo-perplexity, at most; each takes up to as many passes as it has tokens."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        at_least_1("--rows", self.rows)
        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.interop.initialize import resolve
        from bert_jax.run.evaluate import evaluate_workdir

        spec = resolve(self.config)
        metrics = evaluate_workdir(spec, workdir=self.workdir)
        for name, value in metrics.items():
            print(f"{name:22s} {value:.4f}" if isinstance(value, float) else f"{name:22s} {value}")
        if self.detailed:
            from bert_jax.analysis.scoring import report, score_workdir

            print(flush=True)
            step = int(metrics["step"])
            scores = score_workdir(spec, workdir=self.workdir, step=step, rows=self.rows)
            print("\n".join(report(scores)))
        return OK


@dataclass(frozen=True)
class Report:
    """A page with pictures of a run: curves, what happened to it, how it compares with others."""

    workdir: Path
    compare: tuple[Path, ...] = ()
    """Workdirs of other runs, to be shown beside it."""
    reference: Path | None = None
    """A metrics.jsonl, to be drawn behind its curves."""
    out: Path | None = None
    """A folder for index.html and the pictures as PNG files. Not given: WORKDIR/report."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the devices may be busy with the run
        from bert_jax.analysis.report import read, summary
        from bert_jax.analysis.report_page import write
        from bert_jax.workdir.bucket import named

        report = read(self.workdir, compare=self.compare, reference=self.reference)
        index = write(report, self.out or self.workdir / "report")
        print("\n".join(summary(report)))
        print(named(f"written to {index}"))
        return OK


@dataclass(frozen=True)
class ListCheckpoints:
    """The checkpoints of a run: step, size, age, validation loss, and whether their files are as written."""

    workdir: Path

    def __call__(self) -> int:
        from bert_jax.workdir.inventory import listing

        sound = True
        for line, wrong in listing(self.workdir):
            print(line + (f"  DAMAGED: {wrong}" if wrong else "  good"), flush=True)
            sound = sound and not wrong
        return OK if sound else USER_ERROR


@dataclass(frozen=True)
class Compare:
    """Whether two runs are the same, bit for bit, or where they differ. Exit status 1 if they do."""

    one: tyro.conf.Positional[Path]
    """A workdir."""
    other: tyro.conf.Positional[Path]
    """Another one."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the devices may be busy with the run
        from bert_jax.analysis.compare import compare

        found = []
        for line, alike in compare(self.one, self.other):
            print(line, flush=True)
            found.append(alike)
        if False in found:
            print("the runs differ")
            return DIFFERENT
        if None in found:
            print("what the runs have in common is the same, but too little to tell")
            return USER_ERROR
        print("the runs are the same")
        return OK
