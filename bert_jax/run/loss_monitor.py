"""Bad numbers: steps that had no update, and spikes of the loss."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence

from bert_jax.config import Config
from bert_jax.workdir.history import History
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

WINDOW = 128
"""Losses that a new one is compared with."""
FEWEST = 32
"""Losses before which none is called a spike."""
PATIENCE = 3
"""Losses in a row that make a spike: a single bad batch is none."""


class LossSpike(Exception):
    """The loss rose and stayed up. Caught by the training loop, which goes back to a checkpoint."""

    def __init__(self, step: int):
        self.step = step


class Sentinel:
    """Looks at the loss of each step, in order. Its state is `losses`, a function of the run alone.

    Args:
      losses: what an earlier one left, at the step that the run goes on from.
      records_of: step -> records of the dataset in its batch.
    """

    def __init__(
        self,
        config: Config,
        history: History,
        *,
        losses: Sequence[float],
        records_of: Callable[[int], list[int]],
    ):
        self.losses = list(losses)
        self._train = config.train
        self._history = history
        self._records_of = records_of
        self._skipped = {entry["step"] for entry in history.events("skipped")}
        self._in_a_row = 0

    def look(self, step: int, metrics: dict[str, float], *, skipped: bool) -> int:
        """Returns how many steps of the run had no update, up to this one.

        Raises:
          UserError: so many in a row that the run is lost.
          LossSpike: the loss rose, and `train.rollbacks` allows to go back.
        """
        self._skipped.discard(step)
        if skipped:
            self._note_skip(step, metrics)
        else:
            self._in_a_row = 0
            self._note_loss(step, metrics["loss"])
        return sum(earlier <= step for earlier in self._skipped)

    def _note_skip(self, step: int, metrics: dict[str, float]) -> None:
        self._skipped.add(step)
        self._in_a_row += 1
        records = self._records_of(step)
        values = {name: str(metrics[name]) for name in ("loss", "grad_norm")}  # JSON has no NaN
        self._history.add("skipped", step=step, records=records, **values)
        log.warning(
            "step %d had no update: its loss is %s, its grad_norm %s; records %s",
            step, *values.values(), _few(records),
        )  # fmt: skip
        if self._in_a_row >= self._train.skips:
            raise UserError(
                f"{self._in_a_row} steps in a row, up to {step}, had no update: loss or grad_norm was not "
                "finite (history.jsonl has their records). The checkpoints are good. In a new --workdir, a "
                "lower optimizer.learning_rate, more optimizer.warmup_steps or model.dtype float32 often help"
            )

    def _note_loss(self, step: int, loss: float) -> None:
        self.losses = [*self.losses, loss][-WINDOW - PATIENCE :]
        if is_spike(self.losses, zscore=self._train.spike_zscore):
            self.losses = self.losses[:-PATIENCE]  # or one spike would be told of many times
            used = len(self._history.events("rollback"))
            log.warning(
                "the loss spikes: %.4f at step %d, median before %.4f; records %s; %d of %d rollbacks used",
                loss, step, statistics.median(self.losses), _few(self._records_of(step)), used,
                self._train.rollbacks,
            )  # fmt: skip
            if used < self._train.rollbacks:
                raise LossSpike(step)


def is_spike(losses: Sequence[float], *, zscore: float) -> bool:
    """Whether each of the last PATIENCE losses is `zscore` robust deviations above the median of the others.

    The deviation is 1.4826 times the median distance from the median, which for a normal distribution is the
    standard deviation, and which a few wild values do not move (Leys et al. 2013).
    """
    before, last = losses[:-PATIENCE], losses[-PATIENCE:]
    if len(before) < FEWEST:
        return False
    median = statistics.median(before)
    deviation = 1.4826 * statistics.median(abs(loss - median) for loss in before)
    return min(last) - median > zscore * max(deviation, 1e-6)


def _few(records: Sequence[int]) -> str:
    return ", ".join(map(str, records[:5])) + (" ..." if len(records) > 5 else "")
