"""Each attention kernel against float32 `xla` on a CPU: what comes out, and the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bert_jax.ops.attention import KERNELS, attention, xla
from bert_jax.ops.attention.kernel import Kernel, Request
from bert_jax.ops.precision import precision
from bert_jax.parallel.platform import local_platform
from tests.device.cases import LONG, PACKED, PADDED, SHORT, Rows
from tests.device.result import Result, failure

HEADS, HEAD_DIM = 2, 64
CASES: tuple[tuple[Rows, int | None], ...] = (
    (SHORT, None),
    (PADDED, None),
    (PACKED, None),
    (LONG, None),
    (LONG, 64),
)
"""Rows, and the window that a query sees."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference by the largest number of the reference."""

Found = dict[str, np.ndarray]


def make_inputs(segment_ids_BxS: np.ndarray, *, seed: int) -> Found:
    """Query, key, value and the cotangent of the output; every number is one of bfloat16."""
    draw = np.random.default_rng(seed)
    shape = (*segment_ids_BxS.shape, HEADS, HEAD_DIM)
    names = ("query", "key", "value", "cotangent")
    return {name: draw.normal(size=shape).astype(ml_dtypes.bfloat16) for name in names}


def run(
    kernel: Kernel, inputs: Found, segments: np.ndarray, *, case: tuple[Rows, int | None], dtype: str
) -> Found:
    """Output and gradients, float32, on this process's first device."""
    rows, window = case
    query, key, value, cotangent = (jnp.asarray(array, dtype) for array in inputs.values())

    @jax.jit
    def both(query: jax.Array, key: jax.Array, value: jax.Array) -> Any:
        def forward(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return attention(
                kernel,
                query,
                key,
                value,
                segment_ids_BxS=jnp.asarray(segments, jnp.int32),
                max_segments=rows.sequences,
                window=window,
            )

        output, backward = jax.vjp(forward, query, key, value)
        return output, *backward(cotangent)

    with precision(dtype):
        found = both(query, key, value)
    names = ("output", "query", "key", "value")
    return {name: np.asarray(array, np.float32) for name, array in zip(names, found, strict=True)}


def make_references(segment_ids: dict[str, np.ndarray]) -> Found:
    """All that `check` needs, from the segment ids [B, S] of real rows, by the name of the rows."""
    made: Found = {}
    for number, case in enumerate(CASES):
        segments = segment_ids[case[0].name]
        inputs = make_inputs(segments, seed=number)
        expected = run(xla, inputs, segments, case=case, dtype="float32")
        made[f"{number} segments"] = segments.astype(np.uint8)
        made |= {
            f"{number} {name}": array.view(np.uint16) for name, array in inputs.items()
        }  # NumPy has no bfloat16
        made |= {f"{number} expected {name}": array for name, array in expected.items()}
    return made


def check(folder: Path) -> Iterator[Result]:
    """A line for each kernel, type and rows; one for each reason that a kernel has not to run."""
    with np.load(folder / "kernels.npz") as file:
        references = dict(file)
    platform = local_platform()
    refused: set[tuple[str, str]] = set()
    for kernel in KERNELS:
        for dtype in TOLERANCE:
            for number, case in enumerate(CASES):
                rows, window = case
                request = Request(
                    platform=platform.name,
                    capability=platform.capability,
                    dtype=dtype,
                    sequence_length=rows.length,
                    head_dim=HEAD_DIM,
                    dropout=False,
                    packed=rows.sequences > 1,
                    window=window,
                )
                what = f"{kernel.NAME} {dtype} {rows.name}" + (f" window {window}" if window else "")
                if reason := kernel.refuses(request):
                    if (kernel.NAME, reason) not in refused:
                        refused.add((kernel.NAME, reason))
                        yield {"what": what, "ok": None, "not run": reason}
                    continue
                try:
                    yield {"what": what} | _compare(kernel, references, number, case, dtype)
                except Exception as error:
                    yield {"what": what} | failure(error)


def _compare(
    kernel: Kernel, references: Found, number: int, case: tuple[Rows, int | None], dtype: str
) -> Result:
    names = ("query", "key", "value", "cotangent")
    inputs = {name: references[f"{number} {name}"].view(ml_dtypes.bfloat16) for name in names}
    found = run(kernel, inputs, references[f"{number} segments"], case=case, dtype=dtype)
    error = {}
    for name, array in found.items():
        expected = references[f"{number} expected {name}"]
        error[name] = float(np.abs(array - expected).max() / np.abs(expected).max())
    gradients = float(np.max([error["query"], error["key"], error["value"]]))
    largest = np.max([error["output"], gradients])  # not a number where one of them is none: not ok
    return {
        "ok": bool(largest <= TOLERANCE[dtype]),
        "output": error["output"],
        "gradients": gradients,
        "tolerance": TOLERANCE[dtype],
    }
