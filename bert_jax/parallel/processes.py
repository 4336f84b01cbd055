"""Several processes of one run: they start together, agree on what they run, and stop at the same step."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.parallel import sharding
from bert_jax.parallel.exit_status import HUNG
from data_pipeline.errors import UserError

START_SECONDS = 300
"""Time for all processes to connect."""

VISIBLE_SECONDS = 60
"""After which a disk that is shared over a network shows what was done on another machine, at the latest."""

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

ALONE = ("coordinator_address should be defined", "must be called before any JAX calls")
"""In what JAX says where it detects nothing; and where a program that already computes has called a verb."""


def initialize() -> None:
    """Joins the other processes of the run, if there are any. Before JAX looks for devices.

    The variables of `EXPLICIT` say where they are: host:port of process 0, how many there are, which one this
    is. Without them it is what JAX detects: a TPU pod (VMs or GKE), Slurm, Open MPI 4. Where it detects
    nothing, the process is alone. One that waits in vain for the others ends with status 70.

    Raises:
      UserError: one of the variables is missing, or is no number; or JAX cannot tell who the others are.
    """
    if jax.distributed.is_initialized():  # by an earlier phase of the recipe
        return
    explicit = _explicit()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM; see PreemptionSignal
    # JAX has such a limit too, and then aborts the process with a stack of C++.
    limit = threading.Timer(START_SECONDS, _give_up, [explicit])
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(
            **explicit,
            initialization_timeout=2 * START_SECONDS,
            heartbeat_timeout_seconds=60,
            shutdown_timeout_seconds=20,
        )
    except (ValueError, RuntimeError) as error:
        if explicit:
            raise
        if any(reason in str(error) for reason in ALONE):
            return
        # Alone or not: two that both think they are would train in one workdir.
        raise UserError(
            f"JAX cannot tell which processes the run has ({str(error).partition(chr(10))[0]}); say it with "
            f"{', '.join(EXPLICIT)}: for a process that is alone localhost:1234, 1 and 0"
        ) from error
    finally:
        limit.cancel()
    if jax.process_index() != 0:
        for package in ("bert_jax", "data_pipeline"):
            logging.getLogger(package).setLevel(logging.WARNING)


def _explicit() -> dict[str, Any]:
    """Arguments of jax.distributed.initialize; none if the environment has none of the variables."""
    given = [name for name in EXPLICIT if name in os.environ]
    if not given:
        return {}
    if missing := set(EXPLICIT) - set(given):
        raise UserError(
            f"{given[0]} is set, but not {min(missing)}: processes need all of {', '.join(EXPLICIT)}"
        )
    address, count, index = (os.environ[name] for name in EXPLICIT)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"JAX_PROCESS_ID {index!r} must be a number that is smaller than JAX_NUM_PROCESSES {count!r}"
        )
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
        "cluster_detection_method": "deactivate",
    }


def _give_up(explicit: dict[str, Any]) -> None:
    given = [f"{name}={os.environ[name]}" for name in EXPLICIT] if explicit else ["as JAX detected them"]
    print(
        f"bert-jax: timed out after {START_SECONDS} s waiting for the processes of the run to connect "
        f"({', '.join(given)}): are all of them started, and can they reach process 0?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HUNG)


def assert_processes_agree(facts: dict[str, str]) -> None:
    """Compares what the processes know; a barrier. All call it.

    Raises:
      UserError: on all of them alike, if they differ; names one difference, and the processes that differ.
    """
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(json.dumps([socket.gethostname(), facts]).encode(), np.uint8)
    with jax.transfer_guard("allow"):
        lengths = multihost_utils.process_allgather(np.asarray(len(mine)))
        padded = np.zeros(lengths.max(), np.uint8)
        padded[: len(mine)] = mine
        rows = multihost_utils.process_allgather(padded)
    known = [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
    if reason := disagreement([host for host, _ in known], [facts for _, facts in known]):
        raise UserError(reason)


def disagreement(hosts: list[str], facts: list[dict[str, str]]) -> str | None:
    """A sentence on the first fact that differs between processes, listed by number; None if none does."""
    for name in dict.fromkeys(name for known in facts for name in known):
        values = [known.get(name, "unknown") for known in facts]
        usual = max(values, key=values.count)  # of a tie the first, so that of process 0
        differing = [index for index, value in enumerate(values) if value != usual]
        if differing:
            processes = ", ".join(f"process {index} (host {hosts[index]})" for index in differing[:5])
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            return (
                f"the processes of a run must agree: {name} is {values[differing[0]]} on {processes}{more}, "
                f"and {usual} on {len(facts) - len(differing)} of {len(facts)}"
            )
    return None


def from_process_0(decide: Callable[[], Any]) -> Any:
    """What `decide` returns on process 0, which alone calls it: anything that JSON has. All call this.

    What is decided by looking at files is decided so: over a network others may see them late.

    Raises:
      UserError, OSError: `decide` did on process 0; the others raise a UserError with its message.
    """
    if jax.process_count() == 1:
        return decide()
    refusal: UserError | OSError | None = None
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": decide()}
        except (UserError, OSError) as error:
            refusal, answer = error, {"refusal": str(error)}
    answer = json.loads(_broadcast(json.dumps(answer)))
    if "refusal" in answer:
        raise refusal or UserError(answer["refusal"])
    return answer["value"]


def _broadcast(text: str) -> str:
    """The text that process 0 has."""
    content = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):
        size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content))))
        here = content if jax.process_index() == 0 else np.zeros(size, np.uint8)
        return np.asarray(multihost_utils.broadcast_one_to_all(here)).astype(np.uint8).tobytes().decode()


def wait_until_visible(condition: Callable[[], bool]) -> bool:
    """Waits for what another process has done in a folder that is shared; False if it does not show."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not (seen := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


class DelayedMax:
    """An all-reduce of a number that nobody waits for: each call returns the maximum of the call before.

    Args:
      first: what the first call returns; the same on all processes.
    """

    def __init__(self, mesh: Mesh, *, first: float = 0.0) -> None:
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._devices = mesh.size
        self._max = jax.jit(lambda values: values.max(), out_shardings=sharding.replicated(mesh))
        self._first = first
        self._pending: jax.Array | None = None

    def __call__(self, value: float) -> float:
        """The largest value of the previous call; with one process, `value`. All call it."""
        if jax.process_count() == 1:
            return value
        here = np.full(1, value, np.float32)
        with jax.transfer_guard("allow"):  # the loop forbids copies; this is a number a device
            values = jax.make_array_from_callback((self._devices,), self._sharding, lambda _: here)
        previous, self._pending = self._pending, self._max(values)  # runs behind the steps; read when done
        return self._first if previous is None else float(jax.device_get(previous))


class PreemptionSignal:
    """While entered, Ctrl-C and SIGTERM are only noted. A second Ctrl-C interrupts at once.

    The processes of a run agree (JAX calls it a preemption sync point): a signal to one of them stops all at
    the same step.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.name = "a signal to another process"
        self._received = False
        self._previous: dict[int, Any] = {}
        self._any = DelayedMax(mesh)

    def __enter__(self) -> PreemptionSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received, self.name = True, signal.Signals(number).name

    def reached(self) -> bool:
        """Whether a process was signalled before the previous call; all processes get the same answer.

        All call it equally often. With one process it is whether that one was signalled.
        """
        return bool(self._any(self._received))
