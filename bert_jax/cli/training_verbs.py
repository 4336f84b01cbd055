"""Verbs that train, or say what a training would take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bert_jax.cli.flags import FromFile, at_least_1, check_is_folder, compiled_programs
from bert_jax.parallel.exit_status import DOES_NOT_FIT, INTERRUPTED, OK


@dataclass(frozen=True)
class Pretrain:
    """Train in a workdir, or resume the run that is there."""

    config: FromFile
    workdir: Path
    """Checkpoints and metrics of the run. The same command resumes the run that it holds."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.run.pretrain import pretrain

        return OK if pretrain(self.config, workdir=self.workdir) else INTERRUPTED


@dataclass(frozen=True)
class Finetune:
    """Train a pretrained encoder for a task, on labelled examples."""

    config: FromFile
    workdir: Path
    """Checkpoints and metrics of the run. The same command resumes the run that it holds."""
    seeds: tuple[int, ...] = ()
    """A run for each, in workdir/seed-0 ..., and their mean and spread."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.finetuning.finetune import finetune, report

        results = finetune(self.config, workdir=self.workdir, seeds=self.seeds)
        if results is None:
            return INTERRUPTED
        print("\n".join(report(results)))
        return OK


@dataclass(frozen=True)
class Glue:
    """Fine-tune for the tasks of GLUE, and print one table."""

    config: FromFile
    workdir: Path
    """A folder in it for each task and seed."""
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    seeds: tuple[int, ...] = (0,)
    files: Path | None = None
    """A folder with TASK/train.tsv and TASK/validation.tsv; None: TFDS, glue/TASK."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.finetuning.glue import glue

        table = glue(self.config, workdir=self.workdir, tasks=self.tasks, seeds=self.seeds, files=self.files)
        if table is None:
            return INTERRUPTED
        print("\n".join(table))
        return OK


@dataclass(frozen=True)
class Benchmark:
    """How fast this machine trains: step time, tokens a second, MFU, memory, waiting for data."""

    config: FromFile
    steps: int = 20
    """Steps to time."""
    profile: Path | None = None
    """A folder for a trace of five steps: `pip install xprof`, then `xprof --logdir DIR`."""
    cache: Path = Path("runs/compiled")
    """A folder for compiled programs."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        at_least_1("--steps", self.steps)
        check_is_folder("--profile", self.profile)
        check_is_folder("--cache", self.cache)
        runtime.configure(cache=self.cache)
        from bert_jax.interop.initialize import resolve
        from bert_jax.run.benchmark import benchmark, report

        result = benchmark(resolve(self.config), steps=self.steps, profile=self.profile)
        print("\n".join(report(result)))
        return OK


@dataclass(frozen=True)
class Plan:
    """What a run would need on TPUs or GPUs that are not here: memory, collectives, time at best. The exit
    status is 1 if a step does not fit."""

    config: FromFile
    topology: str
    """A TPU's shape: v5e:16x16, v4:8x8x8, v5p:8x8x8, v6e:16x16 ... (a v4 or v5p name counts chips); or hosts
    and GPUs a host: h100:4x8, or h100:8, one host; h100, h200, a100, a100-40g, b200, l4."""
    slices: int = 1
    """Several of a TPU's, joined by the data centre's network."""
    find_batch: bool = False
    """Compile for 1, 2, 4 ... rows a chip, to the largest of these microbatches that fits."""
    cache: Path = Path("runs/compiled")
    """The compiler's answers are kept here: a question asked again is answered at once."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the pod is not here, and need not be looked for
        from bert_jax.interop.initialize import resolve
        from bert_jax.planning.plan import LARGEST_ROWS, find_pod, plan, plan_largest_batch, report

        at_least_1("--slices", self.slices)
        check_is_folder("--cache", self.cache)
        pod = find_pod(self.topology, slices=self.slices)
        spec = resolve(self.config, platform=pod.platform)
        if not self.find_batch:
            found = plan(spec, pod, cache=self.cache)
            print("\n".join(report(found)))
            return OK if found.fits else DOES_NOT_FIT
        largest = 0
        for found in plan_largest_batch(spec, pod, cache=self.cache):
            verdict = "fits" if found.fits else "does not fit"
            print(
                f"{found.rows:5d} rows a chip: {found.compiled.memory / 2**30:8.3f} GiB, {verdict}",
                flush=True,
            )
            largest = found.rows if found.fits else largest
        if not largest:
            print("not even one row a chip fits: try --model.remat full, or --mesh.fsdp")
            return DOES_NOT_FIT
        end = ", the last that was tried" if largest == LARGEST_ROWS else ""
        print(f"the largest microbatch of 1, 2, 4 ... that fits has {largest} rows a chip{end}")
        return OK
