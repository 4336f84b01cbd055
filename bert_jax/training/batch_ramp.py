"""The batch size over a run: which steps have how many rows, and with which row of the data each begins."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bert_jax.config import Config, TrainConfig


@dataclass(frozen=True)
class Stage:
    """Steps in a row that have batches of one size."""

    start: int
    """Steps done before it."""
    stop: int
    """Steps done at its end."""
    rows: int
    """Of a batch."""
    microbatches: int
    """As few as keep them no larger than those of the whole batch."""
    rows_before: int
    """Of all batches before it."""

    def of(self, config: Config) -> Config:
        """`config` as its steps are to be compiled."""
        train = dataclasses.replace(
            config.train,
            global_batch_size=self.rows,
            microbatches=self.microbatches,
            batch_ramp=(),
            batch_ramp_steps=0,
        )
        return dataclasses.replace(config, train=train)


def stages(train: TrainConfig) -> list[Stage]:
    """The sizes of `batch_ramp` take equal turns in its `batch_ramp_steps`; the whole batch has the rest.

    The learning rate knows nothing of it: a function of the step, it does not jump where the batch grows.
    """
    sizes = *train.batch_ramp, train.global_batch_size
    turns = len(train.batch_ramp)
    stops = *(train.batch_ramp_steps * (i + 1) // turns for i in range(turns)), train.most_steps
    found: list[Stage] = []
    start = before = 0
    for rows, stop in zip(sizes, stops, strict=True):
        microbatches = -(-rows * train.microbatches // train.global_batch_size)
        found.append(Stage(start, stop, rows, microbatches, before))
        start, before = stop, before + rows * (stop - start)
    return found


def rows_before(train: TrainConfig, step: int) -> int:
    """Rows in the batches of the first `step` steps: the place of the next one in the data."""
    stage = next(stage for stage in stages(train) if step <= stage.stop)
    return stage.rows_before + (step - stage.start) * stage.rows
