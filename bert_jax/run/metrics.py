"""Where a run's metrics go: metrics.jsonl, TensorBoard, a progress bar; and its throughput."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from bert_jax.run.clock import Clock
from bert_jax.run.tensorboard import EventFile
from bert_jax.training.chips import chip
from bert_jax.training.network import flops
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.log_file import LogFile
from bert_jax.workdir.metrics_file import rewind

log = logging.getLogger(__name__)


class MetricsWriter:
    """Writes metrics for people. A context manager; only process 0 writes.

    Args:
      start: the step that the run starts or resumes from. Lines of later steps in metrics.jsonl, left by a
        run that stopped after its last checkpoint, are removed: no step is there twice.
    """

    def __init__(self, spec: RunSpec, workdir: Path, *, start: int, clock: Clock):
        from tqdm import tqdm

        train = spec.config.train
        self._last = train.stop_at or (None if train.hours else spec.steps)
        self._clock = clock
        self._writes = jax.process_index() == 0
        self._workdir = workdir
        if self._writes:
            self._open(start)
        self._bar = tqdm(
            total=self._last,
            initial=start,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            disable=None if self._writes else True,  # None: shown on a terminal only
        )

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._writes:
            self._flush()

    def rewind(self, step: int) -> None:
        """Takes back what was written of later steps, which are done again."""
        if self._writes:
            self._flush()
            self._open(step)
        self._bar.n = step
        self._bar.refresh()

    def advance(self) -> None:
        """One more step was started."""
        self._bar.update()

    def write(self, step: int, split: str, metrics: dict[str, float], *, tokens: int) -> None:
        """One line of metrics.jsonl, with the `tokens` that the run has seen."""
        if not self._writes:
            return
        place = {"step": step, "split": split, "tokens": tokens, "hours": self._clock.total / 3600}
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._lines.write(json.dumps(place | finite).encode() + b"\n")
        self._events.write(step, {f"{split}/{name}": value for name, value in metrics.items()})
        if split == "train":
            self._bar.set_postfix_str(
                f"loss {metrics['loss']:.3f}, {metrics.get('tokens_per_second', 0):,.0f} tokens/s"
            )
        if self._bar.disable or split == "validation":
            shown = [
                f"{name} {_short(value)}"
                for name, value in metrics.items()
                if name != "skipped_steps" or value
            ]
            with self._bar.external_write_mode():
                of = f"{step}/{self._last}" if self._last else f"{step}"
                log.info("step %s %s: %s", of, split, ", ".join(shown))

    def _flush(self) -> None:
        """Tries once more what the disk has refused."""
        self._lines.flush()
        self._events.flush()

    def _open(self, step: int) -> None:
        file = self._workdir / "metrics.jsonl"
        rewind(file, step)
        self._lines = LogFile(file)
        self._events = EventFile(self._workdir / "tensorboard", start=step)


def describe_records(records: Sequence[int]) -> str:
    """The first few of them."""
    return ", ".join(map(str, records[:5])) + (" ..." if len(records) > 5 else "")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


class Throughput:
    """Tokens a second, and MFU where the chip's peak is known: of the steps since `restart` or `measure`."""

    def __init__(self, spec: RunSpec):
        self._spec = spec
        known = chip(jax.devices()[0].device_kind)
        self._peak = known.flops * jax.device_count() if known else None
        self.restart()

    def restart(self) -> None:
        """Starts the clock anew: what was done before was not training."""
        self._begun = time.perf_counter()
        self._tokens = self._flops = 0.0

    def add(self, *, rows: int, columns: int, tokens: float) -> None:
        """A step was done, with a batch of that shape."""
        shape = self._spec.rows._replace(sequence_length=columns)
        self._flops += rows * flops(self._spec.network, shape)
        self._tokens += tokens

    def measure(self) -> dict[str, float]:
        """The rates; nothing where there was no step."""
        seconds, tokens, done = time.perf_counter() - self._begun, self._tokens, self._flops
        self.restart()
        if not done:
            return {}
        rates = {"tokens_per_second": tokens / seconds}
        if self._peak:
            rates["mfu"] = done / seconds / self._peak
        return rates
