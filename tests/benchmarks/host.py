"""What the thread of the training loop has to do for a batch: before, and as it is now.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.benchmarks.host

2,048 rows of 128 for 8 devices of this host. Before: ten arrays, each to each device, by the loop itself.
Now: five, what follows of them left to the step, all in one transfer by a thread that is two batches ahead.
The step is stood in for by one of a given time in which the host has nothing to do.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from bert_jax.config import DataConfig, MeshConfig
from bert_jax.parallel import sharding
from bert_jax.run.prefetch import prefetched
from data_pipeline.batch import Batch, batch_spec, unpack


def one_by_one(batch: Batch, mesh: jax.sharding.Mesh, *, batch_size: int) -> dict[str, jax.Array]:
    """`sharding.global_batch` as it was: a transfer for each array and device."""
    where = sharding.batch_sharding(mesh)
    parts = where.addressable_devices_indices_map((batch_size,))

    def on_devices(array: np.ndarray) -> jax.Array:
        pieces = [jax.device_put(array[index], device) for device, index in parts.items()]  # type: ignore[index]
        return jax.make_array_from_single_device_arrays((batch_size, *array.shape[1:]), where, pieces)

    return {name: on_devices(array) for name, array in batch.items()}


def rows(count: int, length: int) -> Batch:
    """Full rows of two sentences."""
    draw = np.random.default_rng(0)
    spec = batch_spec(DataConfig(sequence_length=length), rows=count)
    batch = {name: draw.integers(1, length, shape).astype(dtype) for name, (shape, dtype) in spec.items()}
    return batch | {"segment_lengths": np.full((count, 1, 2), length // 2, np.int32)}


def seconds(batches: Iterator[dict[str, jax.Array]], *, step_seconds: float) -> list[float]:
    """Of each batch: until it is on the devices and what is computed of it is dispatched."""
    consume = jax.jit(lambda batch: {name: array.sum() for name, array in batch.items()})
    found = []
    start = time.perf_counter()
    for batch in batches:
        given = consume(batch)
        found.append(time.perf_counter() - start)
        time.sleep(step_seconds)
        jax.block_until_ready(given)
        start = time.perf_counter()
    return found[3:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--step-seconds", type=float, default=0.05)
    arguments = parser.parse_args()
    mesh = sharding.make_mesh(MeshConfig())
    batch = rows(arguments.rows, arguments.length)
    place = functools.partial(sharding.global_batch, mesh=mesh, batch_size=arguments.rows)
    before = functools.partial(one_by_one, mesh=mesh, batch_size=arguments.rows)
    steps = arguments.steps + 3

    def now() -> list[float]:
        with prefetched(itertools.repeat(batch, steps), place) as batches:
            return seconds(batches, step_seconds=arguments.step_seconds)

    sides: dict[str, Callable[[], list[float]]] = {
        "before": lambda: seconds(
            map(before, itertools.repeat(unpack(batch), steps)), step_seconds=arguments.step_seconds
        ),
        "now": now,
    }
    found: dict[str, list[float]] = {"before": [], "now": []}
    for _ in range(3):
        for side, measure in sides.items():
            found[side] += measure()
    where = f"{jax.device_count()} devices, jax {jax.__version__}"
    print(f"{arguments.rows:,} rows of {arguments.length} to {where}")
    for side, taken in found.items():
        sent = sum(array.nbytes for array in (unpack(batch) if side == "before" else batch).values())
        low, high = min(taken) * 1e3, max(taken) * 1e3
        print(
            f"{side:8s}{statistics.median(taken) * 1e3:8.2f} ms a step, {low:.2f} to {high:.2f}; "
            f"{sent / 1e6:.1f} MB a batch"
        )


if __name__ == "__main__":
    main()
