"""Held-out metrics: every validation row once, always with the same masks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.objectives.objective import Sums
from bert_jax.parallel import sharding
from bert_jax.run.prefetch import run_all
from bert_jax.training.fits import check_fits
from bert_jax.training.network import Params
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import eval_step
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.inventory import check_has_run
from data_pipeline.batch import unpack

if TYPE_CHECKING:
    from data_pipeline.loader import Loader

EvalStep = Callable[[Params, dict[str, jax.Array]], Sums]


def compile_eval_step(spec: RunSpec, mesh: Mesh) -> EvalStep:
    return jax.jit(functools.partial(eval_step, spec), out_shardings=sharding.replicated(mesh))


def evaluate(
    spec: RunSpec,
    params: Params,
    *,
    step: EvalStep,
    mesh: Mesh,
    loader: Iterable[dict[str, np.ndarray]],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Means over the batches of `loader`, or the first `train.eval_batches` of them.

    None if `stop`, asked before each batch, says so.
    """
    train, objective = spec.config.train, spec.network.objective
    losses: list[str] = []

    def run(batch: dict[str, jax.Array]) -> Sums:
        nonlocal losses
        losses = losses or list(jax.eval_shape(lambda: objective.weights(unpack(batch))))
        return step(params, batch)

    place = functools.partial(sharding.global_batch, mesh=mesh, batch_size=train.global_batch_size)
    found = run_all(run, islice(loader, train.eval_batches), place, stop=stop)
    if found is None:
        return None
    assert found, "a validation split has a row"
    by_batch = [jax.tree.map(np.float64, sums) for sums in found]
    totals = functools.reduce(functools.partial(jax.tree.map, np.add), by_batch)
    metrics = {name: float(total / max(weight, 1)) for name, (total, weight) in totals.items()}
    loss_weight = spec.network.settings.loss_weight
    return {"loss": sum(loss_weight(name) * metrics[name] for name in losses)} | metrics


class OpenCheckpoint(NamedTuple):
    """The parameters of a checkpoint on their mesh, and held-out rows for them."""

    params: Params
    step: int
    mesh: Mesh
    loader: Loader


@contextlib.contextmanager
def open_checkpoint(spec: RunSpec, *, workdir: Path, step: int | None = None) -> Iterator[OpenCheckpoint]:
    """The checkpoint of `step`, the latest one if None, and the validation rows of the run."""
    from data_pipeline.loader import Loader

    check_has_run(workdir)
    config = spec.config
    mesh = sharding.make_mesh(config.mesh)
    check_fits(spec, mesh)
    batch_size = config.train.global_batch_size
    rows = sharding.local_rows(mesh, batch_size)
    with (
        jax.set_mesh(mesh),
        Loader(config.data, split="validation", batch_size=batch_size, rows=rows) as loader,
        Checkpoints(workdir, spec, fingerprint=loader.manifest.fingerprint, read_only=True) as checkpoints,
    ):
        yield OpenCheckpoint(*checkpoints.restore_params(mesh, step=step), mesh, loader)


def evaluate_workdir(spec: RunSpec, *, workdir: Path) -> dict[str, float]:
    """Held-out metrics of the latest checkpoint, with its step and the baselines to compare with."""
    with open_checkpoint(spec, workdir=workdir) as (params, at_step, mesh, loader):
        step = compile_eval_step(spec, mesh)
        metrics = evaluate(spec, params, step=step, mesh=mesh, loader=loader)
        assert metrics is not None, "nothing stops it"
        return {"step": at_step} | metrics | loader.manifest.baselines
