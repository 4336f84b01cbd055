"""What must be true before a run writes anything: on this machine, and between its processes."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import jax
from jax.sharding import Mesh

from bert_jax.config import Config
from bert_jax.config.files import load_json
from bert_jax.parallel import sharding
from bert_jax.parallel.processes import check_same, same_everywhere, wait_for_all
from bert_jax.workdir.checkpoint import steps_of
from bert_jax.workdir.provenance import facts
from bert_jax.workdir.resume import obstacles
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest

SIGN = "sign-of-process-0"
LATE = 60
"""Seconds after which a disk that is shared over a network shows a new file, at the latest."""

OWN_FILES = {
    "checkpoints",
    "config.json",
    "config.json.unfinished",
    "damaged",
    "history.jsonl",
    "metrics.jsonl",
    "metrics.tmp",
    "report",
    SIGN,
    "tensorboard",
    "tokenizer",
}
"""What a workdir holds. Without a checkpoint it is that of a run that died young, and is begun anew."""


def open_dataset(config: Config) -> Manifest:
    """What is in data.dir; in all processes the same, and the same program and config to read it.

    Raises:
      FileNotFoundError, UserError: it is not; on all processes alike where they differ.
    """
    directory = Path(config.data.dir)
    try:
        manifest = Manifest.load(directory)
    except (OSError, UserError) as error:
        check_same(facts(config) | {"the dataset": f"unreadable ({error})"})
        raise
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    here = {
        "the dataset": f"of fingerprint {manifest.fingerprint[:12]}",
        "what is in data.dir": f"{len(sizes)} files of {sum(sizes):,} bytes",  # a copy may be incomplete
    }
    check_same(facts(config) | here)
    manifest.check(config.data)
    if manifest.vocab_size > config.model.vocab_size:
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} has {manifest.vocab_size} pieces, more than "
            f"model.vocab_size {config.model.vocab_size}"
        )
    return manifest


def check_workdir(config: Config, workdir: Path) -> None:
    """Raises UserError, on all processes, if `workdir` is not for this run, or not the same for all."""
    if workdir.exists():
        if steps := steps_of(workdir):
            odd = obstacles(load_json(workdir / "config.json"), config, step=steps[0])
            if odd:
                raise UserError(f"{workdir} holds another run: there {odd[0]}; use a new --workdir")
        elif strange := sorted({entry.name for entry in workdir.iterdir()} - OWN_FILES):
            raise UserError(f"{workdir} holds no run, but {strange[0]}; use a new --workdir")
    if jax.process_count() > 1:
        wait_for_all("check of the workdir")  # before process 0 writes there
        _check_shared(workdir)


def _check_shared(workdir: Path) -> None:
    """Process 0 writes a sign, and the others look for it."""
    number = str(same_everywhere(secrets.randbelow(2**31)))
    sign = workdir / SIGN
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        sign.write_text(number)
    deadline = time.monotonic() + LATE
    while not (seen := sign.is_file() and sign.read_text() == number) and time.monotonic() < deadline:
        time.sleep(0.1)
    check_same({"the workdir": "that of process 0" if seen else f"{workdir} on a disk that is not shared"})
    if jax.process_index() == 0:
        sign.unlink()


def machines(config: Config, mesh: Mesh) -> str:
    """What the run has: processes, devices, mesh, and the rows that each process reads."""
    rows = config.train.global_batch_size
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return (
        f"{jax.process_count()} process(es) with {jax.local_device_count()} x {jax.devices()[0].device_kind} "
        f"each; mesh {axes}; {len(sharding.local_rows(mesh, rows))} of {rows} rows a process"
    )
