"""What must be true before a run writes anything: on this machine, and between its processes."""

from __future__ import annotations

import secrets
from pathlib import Path

import jax
from jax.sharding import Mesh

from bert_jax.interop.teacher import check_teacher_tokenizer
from bert_jax.parallel import sharding
from bert_jax.parallel.processes import assert_processes_agree, from_process_0, wait_until_visible
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.bucket import root_of
from bert_jax.workdir.inventory import steps_of
from bert_jax.workdir.provenance import facts
from bert_jax.workdir.resume import incompatible_changes
from bert_jax.workdir.run_files import load_spec
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest
from data_pipeline.storage import dataset_folder

PROBE = ".shared-filesystem-probe"
OWN_FILES = {
    "checkpoints",
    "config.json",
    "config.json.unfinished",
    "damaged",
    "history.jsonl",
    "metrics.jsonl",
    "owner.json",
    "owner.json.unfinished",
    "report",
    PROBE,
    "replaced",
    "resolved.json",
    "resolved.json.unfinished",
    "tensorboard",
    "tokenizer",
}
"""What a workdir holds. Without a checkpoint it is that of a run that died early, and is begun anew."""


def open_dataset(spec: RunSpec) -> Manifest:
    """What is in data.dir. All processes must have the same data, program and config; a barrier.

    Raises:
      FileNotFoundError, UserError: it is not; on all processes alike where they differ.
    """
    config = spec.config
    directory = dataset_folder(config.data.dir)
    try:
        manifest = Manifest.load(directory)
    except (OSError, UserError) as error:
        assert_processes_agree(facts(config) | {"the dataset": f"unreadable ({error})"})
        raise
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    here = {
        "the dataset": f"of fingerprint {manifest.fingerprint[:12]}",
        "what is in data.dir": f"{len(sizes)} files of {sum(sizes):,} bytes",  # a copy may be incomplete
    }
    if spec.network.teacher is not None:
        here["the teacher"] = f"of digest {spec.network.teacher.digest}"
    assert_processes_agree(facts(config) | here)
    manifest.check(config.data)
    check_teacher_tokenizer(config)
    if manifest.vocab_size > spec.network.model.vocab_size:
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} has {manifest.vocab_size} pieces, more than "
            f"model.vocab_size {spec.network.model.vocab_size}: --model.vocab-size {manifest.vocab_size} for "
            "a new model, --init.vocabulary extend or transplant for one that starts from another"
        )
    pad, wanted = manifest.special_tokens.pad, getattr(spec.network.model, "pad_token_id", None)
    if wanted not in (None, pad):  # Transformers counts positions from the padding on
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} has the padding {pad}, but model.pad_token_id is "
            f"{wanted}: use the tokenizer of the model, or for a new model --model.pad-token-id {pad}"
        )
    return manifest


def check_workdir(spec: RunSpec, workdir: Path) -> None:
    """Raises UserError, on all processes, if `workdir` is not for this run, or not the same for all."""
    from_process_0(lambda: _check_is_of(spec, workdir))
    if jax.process_count() > 1:
        _check_shared(workdir)


def _check_is_of(spec: RunSpec, workdir: Path) -> None:
    if steps := steps_of(workdir):
        changes = incompatible_changes(load_spec(workdir), spec, step=steps[0])
        if changes:
            raise UserError(f"{workdir} holds another run: there {changes[0]}; use a new --workdir")
    elif workdir.exists() and (foreign := sorted({entry.name for entry in workdir.iterdir()} - OWN_FILES)):
        raise UserError(f"{workdir} holds no run, but {foreign[0]}; use a new --workdir")


def _check_shared(workdir: Path) -> None:
    """Process 0 writes a file, and the others look for it."""
    probe = root_of(workdir) / PROBE

    def write() -> str:
        number = str(secrets.randbelow(2**31))
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text(number)
        return number

    number = from_process_0(write)
    seen = wait_until_visible(lambda: probe.is_file() and probe.read_text() == number)
    assert_processes_agree(
        {"the workdir": "that of process 0" if seen else f"{workdir} on a disk that is not shared"}
    )
    if jax.process_index() == 0:
        probe.unlink()


def describe_devices(spec: RunSpec, mesh: Mesh) -> str:
    """Processes, devices, mesh, and the rows that each process reads."""
    rows = spec.config.train.global_batch_size
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return (
        f"{jax.process_count()} process(es) with {jax.local_device_count()} x {jax.devices()[0].device_kind} "
        f"each; mesh {axes}; {len(sharding.local_rows(mesh, rows))} of {rows} rows a process"
    )
