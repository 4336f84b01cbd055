"""Being one process of several, which may be stopped: they start together and stop at the same step."""

from __future__ import annotations

import logging
import os
import signal
import types
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax import sharding

START_SECONDS = 300
"""For all processes to be there."""


def initialize() -> None:
    """Joins the other processes that the environment tells of. Before JAX looks for devices.

    JAX_COORDINATOR_ADDRESS is host:port of process 0, JAX_NUM_PROCESSES how many there are, JAX_PROCESS_ID
    which one this is.

    Raises:
      ValueError: one of the variables is missing, or is no number.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if name in os.environ]
    if not given:
        return
    if missing := set(names) - set(given):
        raise ValueError(
            f"{given[0]} is set, but not {min(missing)}: processes need all of {', '.join(names)}"
        )
    count, index = (os.environ[name] for name in names[1:])
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"JAX_PROCESS_ID {index!r} must be a number that is smaller than JAX_NUM_PROCESSES {count!r}"
        )
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM; see Interruption
    jax.distributed.initialize(
        os.environ[names[0]],
        num_processes=int(count),
        process_id=int(index),
        initialization_timeout=START_SECONDS,
        heartbeat_timeout_seconds=60,
        shutdown_timeout_seconds=20,
    )
    if jax.process_index() != 0:
        for package in ("bert_jax", "data_pipeline"):
            logging.getLogger(package).setLevel(logging.WARNING)


def same_everywhere(value: int) -> int:
    """What process 0 says. All call it."""
    with jax.transfer_guard("allow"):
        return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def wait_for_all(what: str) -> None:
    """Returns when every process is here."""
    multihost_utils.sync_global_devices(what)


class Interruption:
    """While entered, Ctrl-C and SIGTERM are only noted. A second Ctrl-C interrupts at once.

    The processes of a run agree: a signal to one of them stops all at the same step.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.signal_name = "a signal to another process"
        self._here = False
        self._previous: dict[int, Any] = {}
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._devices = mesh.size
        self._any = jax.jit(lambda flags: flags.max(), out_shardings=sharding.replicated(mesh))
        self._asked: jax.Array | None = None

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: types.FrameType | None) -> None:
        if self._here and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._here, self.signal_name = True, signal.Signals(number).name

    def agreed(self) -> bool:
        """Whether a process was signalled before the previous call; all processes hear the same.

        All call it equally often. With one process it is whether that one was signalled.
        """
        if jax.process_count() == 1:
            return self._here
        flag = np.full(1, self._here, np.int32)
        with jax.transfer_guard("allow"):  # the loop forbids copies; this is a number a device
            flags = jax.make_array_from_callback((self._devices,), self._sharding, lambda _: flag)
        asked, self._asked = self._asked, self._any(flags)  # runs behind the steps; read when done
        return asked is not None and bool(jax.device_get(asked))
