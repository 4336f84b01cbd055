"""What a process is doing, since when, and where its time went: into steps, or into what is between them."""

from __future__ import annotations

import time
from typing import Literal

Phase = Literal["start", "compile", "input", "step", "evaluation", "save"]


class Clock:
    """Always in one phase, first in "start"."""

    def __init__(self) -> None:
        self.phase: Phase = "start"
        self.step = 0
        self.since = time.monotonic()
        """When `enter` was called last: the watchdog reads it."""
        self._spent: dict[Phase, float] = {}
        self.earlier = 0.0
        """Seconds of the processes that the run had before."""

    def enter(self, phase: Phase, *, step: int) -> None:
        """Begins a phase: from here on the time is that of `phase`, for `step`."""
        now = time.monotonic()
        self._spent[self.phase] = self._spent.get(self.phase, 0.0) + now - self.since
        self.phase, self.step, self.since = phase, step, now

    @property
    def seconds(self) -> dict[Phase, float]:
        """Seconds by phase, the present one with its time until now."""
        now = self._spent.get(self.phase, 0.0) + time.monotonic() - self.since
        return self._spent | {self.phase: now}

    @property
    def total(self) -> float:
        """Seconds of the run, over restarts."""
        return self.earlier + sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of steps in all the time (Google Cloud's ML Goodput, of this process)."""
        seconds = self.seconds
        return seconds.get("step", 0.0) / max(sum(seconds.values()), 1e-9)

    def __str__(self) -> str:
        seconds = self.seconds
        total = sum(seconds.values())
        largest = sorted(seconds.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{phase} {spent / total:.1%}" for phase, spent in largest)
        return f"goodput {self.goodput:.1%} of {total:,.0f} s: {shares}"
