"""The training loop: from a config and a workdir to checkpoints. `bert-jax pretrain` calls `pretrain`."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax import sharding
from bert_jax.attention import choose
from bert_jax.checkpoint import Checkpoints
from bert_jax.config import Config, differences, load_json, to_json
from bert_jax.distributed import Interruption
from bert_jax.evaluate import compile_eval_step, evaluate
from bert_jax.metrics import Reporter
from bert_jax.ramp import Stage, rows_before, stages
from bert_jax.step import TrainState, jit_init_state, jit_train_step
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest

log = logging.getLogger(__name__)

OWN_FILES = {
    "checkpoints",
    "config.json",
    "config.json.unfinished",
    "metrics.jsonl",
    "metrics.tmp",
    "tensorboard",
    "tokenizer",
}
"""What a workdir holds. Without a checkpoint it is that of a run that died young, and is begun anew."""


def pretrain(config: Config, *, workdir: Path) -> bool:
    """Trains to `train.steps` or `train.stop_at`; goes on from the workdir's latest checkpoint if it has one.

    Returns:
      True if the run came to its end, False if a signal stopped it; either way its state is saved.

    Raises:
      FileNotFoundError, ValueError: config, dataset or workdir cannot be used; nothing was written.
      FloatingPointError: the loss is not finite; the last checkpoint is from before.
    """
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_fits(config, mesh)
    config = choose(config, platform=jax.default_backend())
    manifest = _open_dataset(config)
    _check_workdir(config, workdir)

    batch_size = config.train.global_batch_size
    rows = sharding.local_rows(mesh, batch_size)
    last = config.train.stop_at or config.train.steps
    with (
        jax.set_mesh(mesh),
        Interruption() as interruption,
        Checkpoints(workdir, config, fingerprint=manifest.fingerprint) as checkpoints,
    ):
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(mesh)
            log.info("going on from step %d of %s", state.step, workdir)
        else:
            state = jit_init_state(config, mesh)()
        _write_workdir(config, workdir)
        log.info("attention: %s", config.model.attention)
        start = int(state.step)
        jitted = [(stage, jit_train_step(stage.of(config), mesh)) for stage in stages(config.train)]
        run_eval_step = compile_eval_step(config, mesh)

        def held_out(state: TrainState) -> dict[str, float]:
            with Loader(config.data, split="validation", batch_size=batch_size, rows=rows) as loader:
                return evaluate(config, state.params, step=run_eval_step, mesh=mesh, loader=loader)

        with (
            contextlib.closing(_training_steps(config, mesh, jitted, start=start, last=last)) as steps,
            Reporter(config, workdir, start=start) as report,
            jax.transfer_guard("disallow"),
        ):
            for step, run_step, batch in steps:
                state, metrics = run_step(state, batch)
                report.advance()
                report.flush()  # an earlier step's metrics, while this one runs
                stopping = step == last or interruption.signal_name is not None
                saving = stopping or step % config.checkpoint.every == 0
                if saving or step % config.train.log_every == 0:
                    report.train(step, metrics)
                if saving:
                    report.flush()  # raises before a state that is not finite is saved
                    checkpoints.save(step, state)
                if "validation" in manifest.rows and (
                    step % config.train.eval_every == 0 or step == config.train.steps
                ):
                    report.flush()
                    report.validation(step, held_out(state))
                if stopping:
                    break
    finished = int(state.step) >= last
    if not finished:
        log.warning("%s at step %d: saved; the same command goes on", interruption.signal_name, state.step)
    return finished


def _training_steps(
    config: Config, mesh: Mesh, jitted: list[tuple[Stage, Any]], *, start: int, last: int
) -> Generator[tuple[int, Any, dict[str, jax.Array]]]:
    """Each step after `start`, to `last`: its number, the function of its stage, its batch."""
    for stage, run_step in jitted:
        first, stop = max(start, stage.start), min(last, stage.stop)
        if first >= stop:
            continue
        if config.train.batch_ramp:
            log.info("from step %d on: %d rows, %d microbatch(es)", first + 1, stage.rows, stage.microbatches)
        with Loader(
            config.data,
            split="train",
            batch_size=stage.rows,
            rows=sharding.local_rows(mesh, stage.rows),
            seed=config.train.seed,
            start=first,
            rows_before=rows_before(config.train, first),
        ) as loader:
            for step in range(first + 1, stop + 1):
                yield step, run_step, sharding.global_batch(next(loader), mesh, batch_size=stage.rows)


def _open_dataset(config: Config) -> Manifest:
    manifest = Manifest.load(Path(config.data.dir))
    manifest.check(config.data)
    if manifest.vocab_size > config.model.vocab_size:
        raise ValueError(
            f"the tokenizer of data.dir {config.data.dir} has {manifest.vocab_size} pieces, more than "
            f"model.vocab_size {config.model.vocab_size}"
        )
    return manifest


def _check_workdir(config: Config, workdir: Path) -> None:
    """Raises ValueError if `workdir` holds what this run must not overwrite. Process 0 does."""
    if jax.process_index() != 0 or not workdir.exists():
        return
    path = workdir / "config.json"
    if any(entry.name.isdigit() for entry in workdir.glob("checkpoints/*")):
        odd = differences(load_json(path), config)
        if odd:
            raise ValueError(f"{workdir} holds another run: there {odd[0]}; use a new --workdir")
    elif strange := sorted({entry.name for entry in workdir.iterdir()} - OWN_FILES):
        raise ValueError(f"{workdir} holds no run, but {strange[0]}; use a new --workdir")


def _write_workdir(config: Config, workdir: Path) -> None:
    """Config and tokenizer: with the checkpoints, all that an export needs. Process 0 does."""
    if jax.process_index() != 0:
        return
    shutil.copytree(Path(config.data.dir) / "tokenizer", workdir / "tokenizer", dirs_exist_ok=True)
    unfinished = workdir / "config.json.unfinished"
    unfinished.write_text(to_json(config))
    os.replace(unfinished, workdir / "config.json")
