"""The speed of a training step: ours and PyTorch's on the same batches, in turns, on one device.

Each side is a process with its model and its batches on the device; both get ready at the same time. Then
they take turns of a few steps, of which only the last is waited for, as in a run.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.device.cases import Case
from tests.device.result import NO_TIME, Result, failure
from tests.device.rows import Arrays, load, take

BATCHES = 4
"""Different ones, in turn."""
WARM_UP = 4
"""Steps before the clock starts."""
MARGIN = 20
"""Seconds for the measuring itself, once a side is ready."""


class Turns(NamedTuple):
    count: int
    steps: int


FULL, TINY = Turns(8, 5), Turns(2, 1)


class Side(NamedTuple):
    step: Callable[[int], Any]
    """Starts a step, and returns its loss."""
    peak_bytes: Callable[[], int | None]
    facts: Result


def ours(case: Case, batches: list[Arrays]) -> Side:
    import jax

    from bert_jax.interop.initialize import resolve
    from bert_jax.parallel import runtime, sharding
    from bert_jax.training.chips import chip
    from bert_jax.training.step import jit_init_state, jit_train_step

    runtime.configure(cache=Path("runs/compiled"))  # as `bert-jax pretrain` does
    spec = resolve(case.config())
    mesh = sharding.make_mesh(spec.config.mesh, devices=jax.devices()[:1])
    jax.set_mesh(mesh)
    on_device = [sharding.global_batch(batch, mesh, batch_size=case.batch) for batch in batches]
    state = jit_init_state(spec, mesh)()
    compiled = jit_train_step(spec, mesh, spec.stages[-1])

    def step(index: int) -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, on_device[index % BATCHES])
        return metrics["loss"]

    def peak_bytes() -> int | None:
        found = jax.devices()[0].memory_stats()
        return found["peak_bytes_in_use"] if found else None

    known = chip(jax.devices()[0].device_kind)
    facts = {"kernel": spec.kernels.names, "flops": spec.step_flops, "peak": known.flops if known else None}
    return Side(step, peak_bytes, facts)


def theirs(case: Case, batches: list[Arrays]) -> Side:
    from tests.device import peer

    return Side(peer.make_step(case, batches), peer.peak_bytes, {})


SIDES = {"ours": ours, "torch.compile": theirs}


def serve(connection: Connection, name: str, case: Case, folder: Path) -> None:
    """Gets ready, then does as many steps as it is told, and answers how long each took."""
    try:
        rows = load(folder / f"{case.rows.name}.npz", case.rows.data())
        batches = [take(rows, index * case.batch, case.batch) for index in range(BATCHES)]
        start = time.perf_counter()
        side = SIDES[name](case, batches)
        for index in range(WARM_UP):
            loss = float(side.step(index))
        connection.send(side.facts | {"ready_s": time.perf_counter() - start})
        while (steps := connection.recv()) is not None:
            start = time.perf_counter()
            for index in range(steps):
                loss = side.step(index)
            loss = float(loss)  # which waits for all of them
            connection.send((time.perf_counter() - start) / steps)
        assert np.isfinite(loss), f"the loss is {loss}"
        connection.send({"loss": loss, "peak_bytes": side.peak_bytes()})
    except Exception as error:
        connection.send(failure(error))


class Running(NamedTuple):
    process: BaseProcess
    connection: Connection
    facts: Result


def measure(case: Case, *, folder: Path, rehearse: bool, seconds: float) -> Iterator[Result]:
    """A line for each side; the peer's says how many times longer it takes."""
    deadline = time.monotonic() + seconds
    case = case.tiny() if rehearse else case
    context = multiprocessing.get_context("spawn")
    started = {}
    for name in SIDES:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, name, case, folder), daemon=True)
        process.start()
        there.close()
        started[name] = (process, here)
    ready: dict[str, Running] = {}
    failed: dict[str, Result] = {}
    for name, (process, connection) in started.items():
        facts = _receive(connection, seconds=deadline - MARGIN - time.monotonic())
        if "ready_s" in facts:
            ready[name] = Running(process, connection, facts)
        else:
            process.kill()
            failed[name] = facts
    turns = TINY if rehearse else FULL
    taken: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(turns.count):
        for name in list(taken):
            ready[name].connection.send(turns.steps)
            answer = _receive(ready[name].connection, seconds=deadline - time.monotonic())
            if isinstance(answer, float):
                taken[name].append(answer)
            else:
                failed[name] = answer
                del taken[name]
    flops, peak = (ready["ours"].facts[name] if "ours" in ready else None for name in ("flops", "peak"))
    for name in SIDES:
        what = {"what": case.name, "side": name, "batch": case.batch}
        if name in failed:
            yield what | failed[name]
            continue
        ready[name].connection.send(None)
        last = _receive(ready[name].connection, seconds=10)
        if "peak_bytes" not in last:
            yield what | last
            continue
        median = statistics.median(taken[name])
        line = what | {
            "ok": True,
            "ms": 1e3 * median,
            "low": 1e3 * min(taken[name]),
            "high": 1e3 * max(taken[name]),
        }
        if peak:
            line["mfu"] = flops / median / peak
        line["tokens_per_second"] = case.batch * case.rows.length / median
        if last["peak_bytes"] is not None:
            line["gb"] = last["peak_bytes"] / 1e9
        if name != "ours" and "ours" in taken:
            line["times_ours"] = median / statistics.median(taken["ours"])
        line["ready_s"] = ready[name].facts["ready_s"]
        line |= {"kernel": ready[name].facts["kernel"]} if name == "ours" else {}
        yield line


def _receive(connection: Connection, *, seconds: float) -> Any:
    """What a side says; a result that says so where it has not come in time, or its process has ended."""
    try:
        if connection.poll(max(0.0, seconds)):
            return connection.recv()
    except (EOFError, OSError):
        return {"ok": False, "error": "its process has ended"}
    return {"ok": None, "not run": NO_TIME}
