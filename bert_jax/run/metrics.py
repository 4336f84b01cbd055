"""What a run says of itself: metrics.jsonl, TensorBoard, a progress bar, its speed."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import Config
from bert_jax.run.clock import Clock
from bert_jax.run.loss_monitor import Sentinel
from bert_jax.training.batch_ramp import rows_before
from bert_jax.training.chips import chip
from bert_jax.training.flops import train_step_flops
from bert_jax.workdir.metrics_file import rewind, validation_values

log = logging.getLogger(__name__)


class Reporter:
    """Metrics of a run, from the devices to the person. A context manager; only process 0 writes.

    The metrics of a step are read from the devices at the next `flush`, which the loop calls when the step
    after is under way: reading never leaves the devices idle.

    Args:
      start: the step that the run starts or goes on from. Lines of later steps in metrics.jsonl, left by a
        run that stopped after its last checkpoint, are removed: no step is there twice.
      tokens: of all steps before, without padding.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        *,
        start: int,
        tokens: int,
        sentinel: Sentinel,
        clock: Clock,
    ):
        from tqdm import tqdm

        self._last = config.train.stop_at or (None if config.train.hours else config.train.steps)
        self._speed = Speed(config)
        self.tokens = tokens
        self._sentinel = sentinel
        self._clock = clock
        self._pending: tuple[int, dict[str, jax.Array], bool, bool] | None = None
        path = workdir / "metrics.jsonl"
        self.validation_values = validation_values(path, config.checkpoint.best, until=start)
        self._writes = jax.process_index() == 0
        if self._writes:
            rewind(path, start)
            self._file = path.open("a")
            self._tensorboard = _summary_writer()(str(workdir / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(
            total=self._last,
            initial=start,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            disable=None if self._writes else True,  # None: shown on a terminal only
        )

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writes:
            self._file.close()
            self._tensorboard.close()

    def advance(self) -> None:
        """One more step was started."""
        self._bar.update()

    def train(self, step: int, metrics: dict[str, jax.Array], *, shown: bool, compiled: bool) -> None:
        """Takes the metrics of a step that still runs; they are written if `shown`.

        If it was `compiled` only now, the time up to its end does not count as training.
        """
        self.flush()
        self._pending = step, metrics, shown, compiled

    def flush(self) -> None:
        """Waits for the step that `train` was last called with, looks at its metrics and writes them.

        Raises:
          UserError, LossSpike: `Sentinel.look` did.
        """
        if self._pending is None:
            return
        step, on_device, shown, compiled = self._pending
        self._pending = None
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        metrics["skipped_steps"] = self._sentinel.look(step, metrics, skipped=bool(metrics.pop("skipped")))
        tokens = metrics.pop("tokens")
        self.tokens += int(tokens)
        if compiled:
            self._speed.restart(step)
        if not shown:
            return
        metrics |= self._speed.measure(step, tokens=tokens)
        metrics["goodput"] = self._clock.goodput
        self._bar.set_postfix_str(
            f"loss {metrics['loss']:.3f}, {metrics.get('tokens_per_second', 0):,.0f} tokens/s"
        )
        self._write(step, "train", metrics)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Writes held-out metrics. The time since the last `flush` does not count as training."""
        self._write(step, "validation", metrics)
        self._speed.restart(step)

    def _write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        if not self._writes:
            return
        place = {"step": step, "split": split, "tokens": self.tokens, "hours": self._clock.total / 3600}
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps(place | finite) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{split}/{name}", value, step)
        self._tensorboard.flush()
        if self._bar.disable or split == "validation":
            shown = [
                f"{name} {_short(value)}"
                for name, value in metrics.items()
                if name != "skipped_steps" or value
            ]
            with self._bar.external_write_mode():
                of = f"{step}/{self._last}" if self._last else f"{step}"
                log.info("step %s %s: %s", of, split, ", ".join(shown))


def _summary_writer() -> Any:
    """The class. Its package would import PyTorch, where that is installed, for seconds and for nothing."""
    hidden: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)
    from tensorboardX import SummaryWriter

    for name in hidden:
        del sys.modules[name]
    return SummaryWriter


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


class Speed:
    """Tokens a second, and MFU where the chip's peak is known."""

    def __init__(self, config: Config):
        self._train = config.train
        self._flops = train_step_flops(config) / config.train.global_batch_size
        known = chip(jax.devices()[0].device_kind)
        self._peak = known.flops * jax.device_count() if known else None
        self._since: tuple[int, float] | None = None

    def measure(self, step: int, *, tokens: float) -> dict[str, float]:
        """Rates since the last call; rows in between are taken to be as full as this step's with `tokens`.

        None where there was no step since `restart`.
        """
        since = self._since
        self.restart(step)
        if since is None or step == since[0]:
            return {}
        seen = rows_before(self._train, step)
        rows_per_second = (seen - rows_before(self._train, since[0])) / (time.perf_counter() - since[1])
        tokens_per_row = tokens / (seen - rows_before(self._train, step - 1))
        rates = {"tokens_per_second": tokens_per_row * rows_per_second}
        if self._peak:
            rates["mfu"] = self._flops * rows_per_second / self._peak
        return rates

    def restart(self, step: int) -> None:
        """Starts the clock anew: what was done since the last call was not training."""
        self._since = step, time.perf_counter()
