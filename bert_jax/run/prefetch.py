"""Batches on their way to the devices while the steps before them run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax

Rows = TypeVar("Rows")
Arrays = TypeVar("Arrays")
Found = TypeVar("Found")

DEPTH = 2
"""Batches that are on the devices and wait for their step."""


@contextmanager
def prefetched(batches: Iterable[Rows], place: Callable[[Rows], Arrays]) -> Iterator[Iterator[Arrays]]:
    """`map(place, batches)`, DEPTH ahead, by a thread. What the thread raises is raised in its turn.

    Args:
      batches: read by that thread alone until this is left.
      place: puts a batch on the devices.
    """
    ready: queue.Queue[tuple[Arrays | None, BaseException | None]] = queue.Queue(DEPTH)
    left = threading.Event()

    def give(arrays: Arrays | None, error: BaseException | None = None) -> None:
        while not left.is_set():
            try:
                ready.put((arrays, error), timeout=0.1)
            except queue.Full:  # the steps are slower: look again whether they are over
                continue
            break

    def run() -> None:
        try:
            for rows in batches:
                give(place(rows))
                if left.is_set():
                    break
            give(None)
        except BaseException as error:
            give(None, error)

    def read() -> Iterator[Arrays]:
        while True:
            arrays, error = ready.get()
            if error is not None:
                raise error
            if arrays is None:
                return
            yield arrays

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        left.set()
        thread.join()


def run_all(
    apply: Callable[[Arrays], Found],
    batches: Iterable[Rows],
    place: Callable[[Rows], Arrays],
    *,
    stop: Callable[[], bool],
) -> list[Found] | None:
    """What `apply` gives for each batch, on the host; each is read while the next one runs.

    None if `stop`, asked before each batch, says so.
    """
    found: list[Found] = []
    running: list[Found] = []
    with prefetched(batches, place) as on_devices:
        for arrays in on_devices:
            if stop():
                return None
            before, running = running, [apply(arrays)]
            found += jax.device_get(before)
    return found + jax.device_get(running)
