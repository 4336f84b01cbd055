"""The batch size over a run: which steps have how many rows, and with which row of the data each begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bert_jax.config import TrainConfig


@dataclass(frozen=True)
class Stage:
    """Steps in a row that have batches of one size."""

    start: int
    """Steps done before it."""
    stop: int
    """Steps done at its end."""
    rows: int
    """Rows of a batch."""
    microbatches: int
    """As few as keep each no larger than those of the whole batch."""
    position: int
    """Rows of all batches before it."""


def make_stages(train: TrainConfig, *, max_steps: int) -> tuple[Stage, ...]:
    """The sizes of `batch_ramp` take equal turns in its `batch_ramp_steps`; the whole batch has the rest.

    The learning rate knows nothing of it: a function of the step, it does not jump where the batch grows.
    """
    sizes = *train.batch_ramp, train.global_batch_size
    turns = len(train.batch_ramp)
    stops = *(train.batch_ramp_steps * (i + 1) // turns for i in range(turns)), max_steps
    stages: list[Stage] = []
    start = position = 0
    for rows, stop in zip(sizes, stops, strict=True):
        microbatches = -(-rows * train.microbatches // train.global_batch_size)
        stages.append(Stage(start, stop, rows, microbatches, position))
        start, position = stop, position + rows * (stop - start)
    return tuple(stages)


def stage_of(stages: Sequence[Stage], step: int) -> Stage:
    """The stage in which step `step` + 1 is."""
    return next(stage for stage in stages if step < stage.stop or stage is stages[-1])


def position_at(stages: Sequence[Stage], step: int) -> int:
    """Rows in the batches of the first `step` steps: the place of the next one in the stream of rows."""
    stage = next(stage for stage in stages if step <= stage.stop)
    return stage.position + (step - stage.start) * stage.rows
