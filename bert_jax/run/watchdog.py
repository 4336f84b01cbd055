"""A process that waits for ever is ended, so that its launcher can start it again."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

import jax

from bert_jax.parallel.exit_status import HUNG
from bert_jax.run.clock import Clock


class Watchdog:
    """While entered, ends the process once its clock has been in one phase for `seconds`.

    What hangs is mostly a collective, because another process is gone: no exception comes of it, and only the
    process itself can tell where it stands. The stacks of all threads go to stderr.

    Args:
      seconds: 0 to watch nothing.
    """

    def __init__(self, clock: Clock, *, seconds: float):
        self._clock, self._seconds = clock, seconds
        self._left = threading.Event()

    def __enter__(self) -> Watchdog:
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def _watch(self) -> None:
        while not self._left.wait(min(self._seconds / 4, 10)):
            clock = self._clock
            if time.monotonic() - clock.since > self._seconds:
                print(
                    f"bert-jax: process {jax.process_index()} made no progress for {self._seconds:g} s, in "
                    f"phase {clock.phase} at step {clock.step}; this is where its threads are",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(HUNG)
