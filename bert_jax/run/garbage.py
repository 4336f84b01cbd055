"""Python's garbage collector at set steps: on a pod each process would pause at a moment of its own."""

from __future__ import annotations

import gc

EVERY_STEPS = 1000


class ScheduledGarbage:
    """While entered, garbage is collected by `after` alone, and what was there before is left out."""

    def __enter__(self) -> ScheduledGarbage:
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()

    def after(self, step: int) -> None:
        if step % EVERY_STEPS == 0:
            gc.collect()
