"""Twenty training steps: the losses of this device against those of a CPU in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from bert_jax.config import MeshConfig
from bert_jax.interop.initialize import resolve
from bert_jax.parallel import sharding
from bert_jax.training.step import jit_init_state, jit_train_step
from tests.device.cases import TWENTY, Twenty
from tests.device.result import Result, failure
from tests.device.rows import Arrays, load, take

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a loss that begins at 9.7."""


def losses(case: Twenty, rows: Arrays, *, dtype: str) -> tuple[list[float], str]:
    """Of each step, and the attention kernel."""
    spec = resolve(case.config(dtype=dtype))
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = jit_init_state(spec, mesh)()
        step = jit_train_step(spec, mesh, spec.stages[-1])
        found = []
        for index in range(case.STEPS):
            batch = take(rows, index * case.batch, case.batch)
            state, metrics = step(state, sharding.global_batch(batch, mesh, batch_size=case.batch))
            found.append(float(metrics["loss"]))
    return found, spec.kernels.names


def check(folder: Path) -> Iterator[Result]:
    references = json.loads((folder / "losses.json").read_text())
    for case in TWENTY:
        rows = load(folder / f"{case.rows.name}.npz", case.rows.data())
        expected = np.asarray(references[case.rows.name])
        for dtype, tolerance in TOLERANCE.items():
            what = f"{case.STEPS} steps {dtype} {case.rows.name}"
            try:
                found, kernel = losses(case, rows, dtype=dtype)
            except Exception as error:
                yield {"what": what} | failure(error)
                continue
            difference = float(np.abs(found - expected).max())
            yield {
                "what": what,
                "ok": bool(difference <= tolerance),
                "kernel": kernel,
                "difference": difference,
                "tolerance": tolerance,
                "first": found[0],
                "last": found[-1],
                "last on CPU": float(expected[-1]),
            }
