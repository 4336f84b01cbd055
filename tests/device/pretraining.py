"""A small BERT trained on the device by the loop that `bert-jax pretrain` runs; killed, and resumed.

    python -m tests.device.pretraining FOLDER WORKDIR CONFIG

is such a run, in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bert_jax.config import Config
from bert_jax.config.as_json import to_json
from bert_jax.run.data import Batches, Evaluator
from bert_jax.run.evaluate import compile_eval_step, evaluate
from bert_jax.training.network import Params
from bert_jax.training.run_spec import RunSpec
from tests.device import cases
from tests.device.cases import SHORT
from tests.device.result import Result
from tests.device.rows import Arrays, load, take

VALIDATION = f"{SHORT.name}-validation.npz"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""For two runs that must have the same bits; nothing but for GPUs."""


class FileData:
    """The rows of a file in place of a prepared dataset; see bert_jax/run/data.py."""

    has_validation = True

    def __init__(self, spec: RunSpec, *, folder: Path):
        self._folder, self._data = folder, spec.config.data
        facts = json.loads((folder / "facts.json").read_text())
        self.fingerprint: str = facts["fingerprint"]
        self.baselines: dict[str, float] = facts["baselines"]
        self._rows = load(folder / f"{SHORT.name}.npz", self._data)
        self._count = len(next(iter(self._rows.values())))

    def batches(self, *, batch_size: int, rows: Sequence[int], step: int, position: int) -> Batches:
        assert list(rows) == list(range(batch_size)), "one process reads all rows"

        def endless() -> Iterator[Arrays]:
            start = position
            while True:
                yield take(self._rows, start, batch_size)
                start += batch_size

        return contextlib.nullcontext(endless())

    def records(self, positions: Sequence[int]) -> list[int]:
        return [position % self._count for position in positions]

    def evaluator(self, spec: RunSpec, mesh: object) -> Evaluator:
        held_out = load(self._folder / VALIDATION, self._data, split="validation")
        size = spec.config.train.global_batch_size
        count = len(next(iter(held_out.values())))
        step = compile_eval_step(spec, mesh)  # type: ignore[arg-type]

        def run(params: Params, stop: object) -> dict[str, float] | None:
            batches = (take(held_out, start, size) for start in range(0, count, size))
            return evaluate(spec, params, step=step, mesh=mesh, loader=batches, stop=stop)  # type: ignore[arg-type]

        return run

    def write_tokenizer(self, directory: Path) -> None:
        shutil.copytree(self._folder / "tokenizer", directory, dirs_exist_ok=True)


def start(folder: Path, workdir: Path, config: Config, *, flags: str = "") -> subprocess.Popen:
    """A run on its way; what it says goes to WORKDIR.log."""
    command = [sys.executable, "-m", "tests.device.pretraining", str(folder), str(workdir), to_json(config)]
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def finish(process: subprocess.Popen, workdir: Path) -> None:
    if process.wait() != 0:
        last = Path(f"{workdir}.log").read_text().strip().splitlines()[-3:]
        raise RuntimeError(f"the run ended with status {process.returncode}: {' | '.join(last)}")


def check_resume(folder: Path, *, out: Path, rehearse: bool) -> Iterator[Result]:
    """A run that is killed behind a checkpoint and started again ends with the bits of one that was not."""
    from tests.helpers.runs import metrics, state

    config = cases.resumed(tiny=rehearse)
    whole, killed = out / "resume" / "whole", out / "resume" / "killed"
    whole.parent.mkdir(parents=True)
    finish(start(folder, whole, config, flags=DETERMINISTIC), whole)
    lines = metrics(whole)
    yield {
        "what": f"{len(lines)} steps at once",
        "ok": True,
        "first": lines[0]["loss"],
        "last": lines[-1]["loss"],
    }

    every = config.checkpoint.every
    process = start(folder, killed, config, flags=DETERMINISTIC)
    while process.poll() is None and not _is_behind_a_checkpoint(killed, every):
        time.sleep(0.005)
    process.kill()
    if process.wait() == 0:
        raise RuntimeError("the run was over before it could be killed")
    reached = metrics(killed)[-1]["step"]
    finish(start(folder, killed, config, flags=DETERMINISTIC), killed)
    history = [json.loads(line) for line in (killed / "history.jsonl").read_text().splitlines()]
    starts = [line["step"] for line in history if line["event"] == "start"]

    one, other = state(whole), state(killed)
    assert one.keys() == other.keys()
    largest = max(float(np.abs(one[name].astype(np.float64) - other[name]).max()) for name in one)
    same = all(one[name].tobytes() == other[name].tobytes() for name in one)
    losses = [line["loss"] for line in metrics(killed)], [line["loss"] for line in lines]
    shutil.rmtree(whole / "checkpoints")
    shutil.rmtree(killed / "checkpoints")
    yield {
        "what": "SIGKILL, and resumed",
        "ok": same and losses[0] == losses[1],
        "killed at step": reached,
        "resumed from step": starts[-1],
        "same bits": same,
        "same losses": losses[0] == losses[1],
        "largest difference": largest,
        "xla_flags": DETERMINISTIC,
    }


def _is_behind_a_checkpoint(workdir: Path, every: int) -> bool:
    """Whether a step was done that no checkpoint has, and one has an earlier step."""
    from tests.helpers.runs import metrics

    committed = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    lines = metrics(workdir)
    return bool(committed and lines) and lines[-1]["step"] > max(committed) + every // 4


def check_pretraining(folder: Path, *, out: Path, rehearse: bool, seconds: float) -> Iterator[Result]:
    """Trains for three minutes, or what there is of them; the curve goes to pretraining.jsonl."""
    from tests.helpers.runs import whole_lines

    start_up = 30  # imports and the last save; the run's own clock has the rest
    minutes = 10 if rehearse else min(180.0, max(seconds - start_up, 10)) / 60
    config = cases.pretraining(tiny=rehearse, minutes=minutes)
    workdir = out / "pretraining"
    workdir.parent.mkdir(parents=True, exist_ok=True)
    finish(start(folder, workdir, config), workdir)
    shutil.copy(workdir / "metrics.jsonl", out / "pretraining.jsonl")
    lines = [json.loads(line) for line in whole_lines(workdir / "metrics.jsonl")]
    trained = [line for line in lines if line["split"] == "train"]
    held_out = [line for line in lines if line["split"] == "validation"]
    shutil.rmtree(workdir / "checkpoints")
    first, last = trained[0], trained[-1]
    few = trained[:: max(1, len(trained) // 10)]
    yield {
        "what": f"pretraining, L{config.model.num_hidden_layers} H{config.model.hidden_size}",
        "ok": last["mlm_loss"] < first["mlm_loss"],
        "minutes": minutes,
        "steps": last["step"],
        "tokens": last["tokens"],
        "tokens_per_second": float(np.median([line.get("tokens_per_second", 0.0) for line in trained])),
        "goodput": last["goodput"],
        "held-out mlm_loss": held_out[-1]["mlm_loss"],
        "held-out mlm_accuracy": held_out[-1]["mlm_accuracy"],
        "unigram_loss": json.loads((folder / "facts.json").read_text())["baselines"]["unigram_loss"],
        "curve": [[line["step"], line["mlm_loss"]] for line in few],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("config", help="in JSON, as a workdir has it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bert_jax").setLevel(logging.INFO)

    from bert_jax.parallel import runtime
    from bert_jax.workdir.run_files import config_from_json

    runtime.configure(cache=Path("runs/compiled"))
    from bert_jax.interop.initialize import resolve
    from bert_jax.run.loop import train

    spec = resolve(config_from_json(arguments.config))
    finished = train(spec, lambda spec: FileData(spec, folder=arguments.folder), workdir=arguments.workdir)
    sys.exit(0 if finished else 1)


if __name__ == "__main__":
    main()
