"""The loss monitor: steps without an update, and spikes of the loss. A pure function of `Progress`."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence

from bert_jax.config import TrainConfig
from bert_jax.workdir.progress import Progress

WINDOW = 128
"""Losses that a new one is compared with."""
MIN_HISTORY = 32
"""Losses before which none is called a spike."""
SPIKE_LENGTH = 3
"""Losses in a row that make a spike: a single bad batch is none."""


class Verdict(enum.Enum):
    """What the metrics of a step say."""

    FINE = enum.auto()
    SKIPPED = enum.auto()
    """Loss or gradient was not finite: there was no update."""
    LOST = enum.auto()
    """So many steps in a row had no update that the run is lost."""
    SPIKE = enum.auto()
    """The loss rose and stayed up."""


def check(train: TrainConfig, progress: Progress, *, loss: float, skipped: bool) -> tuple[Verdict, Progress]:
    """Looks at the loss of the next step, in order."""
    if skipped:
        in_a_row = progress.consecutive_skips + 1
        progress = progress._replace(skipped_steps=progress.skipped_steps + 1, consecutive_skips=in_a_row)
        return Verdict.LOST if in_a_row >= train.max_consecutive_skips else Verdict.SKIPPED, progress
    losses = (*progress.losses, loss)[-WINDOW - SPIKE_LENGTH :]
    spike = is_spike(losses, zscore=train.spike_zscore)
    if spike:
        losses = losses[:-SPIKE_LENGTH]  # or one spike would be seen many times
    return Verdict.SPIKE if spike else Verdict.FINE, progress._replace(losses=losses, consecutive_skips=0)


def is_spike(losses: Sequence[float], *, zscore: float) -> bool:
    """Whether each of the last SPIKE_LENGTH losses is `zscore` robust deviations above the others' median.

    The deviation is 1.4826 times the median distance from the median, which for a normal distribution is the
    standard deviation, and which a few wild values do not move (Leys et al. 2013).
    """
    before, last = losses[:-SPIKE_LENGTH], losses[-SPIKE_LENGTH:]
    if len(before) < MIN_HISTORY:
        return False
    median = statistics.median(before)
    deviation = 1.4826 * statistics.median(abs(loss - median) for loss in before)
    return min(last) - median > zscore * max(deviation, 1e-6)
