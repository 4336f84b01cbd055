"""How fast this machine trains a config: the loop that `pretrain` runs, timed.

Needs no TensorFlow and no dataset: without one the batches are synthetic.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.interop.teacher import teacher_constants
from bert_jax.parallel import sharding
from bert_jax.run.prefetch import prefetched
from bert_jax.training.chips import chip
from bert_jax.training.fits import check_fits
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import abstract_constants, abstract_state, jit_init_state, jit_train_step
from data_pipeline.batch import batch_spec
from data_pipeline.errors import UserError
from data_pipeline.storage import dataset_folder

WARM_UP = 3
"""Steps before the clock starts: the first ones fetch memory and fill caches."""

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Timing:
    """How long steps in a row took."""

    seconds: list[float]
    """Seconds from the end of each step to that of the next."""
    tokens: list[int]
    """Real ones in each step: no padding."""
    waited: list[float]
    """Seconds until each next batch was on the devices."""
    host: list[float]
    """Seconds of Python for each step, until the devices have their work."""
    ahead: list[float]
    """Seconds that each step was dispatched before the devices were done with the one before."""

    @property
    def step(self) -> float:
        return statistics.median(self.seconds)

    @property
    def real_tokens_per_second(self) -> float:
        return sum(self.tokens) / sum(self.seconds)


@dataclass(frozen=True)
class Result:
    spec: RunSpec
    device: str
    devices: int
    compile_seconds: float
    from_cache: bool
    state_bytes: float
    """Bytes a device."""
    temporary_bytes: float
    """Bytes a device, as the compiler has planned it."""
    peak_bytes: float | None
    """Bytes a device, as it says itself; None where it does not (CPUs)."""
    repeated: Timing
    """One batch again and again: the devices' own speed."""
    loaded: Timing | None
    """The loader's timing, read as `pretrain` does; None for synthetic batches."""
    why_synthetic: str
    """Empty if the batches are the dataset's."""

    @property
    def mfu(self) -> float | None:
        """Analytic FLOPs against the chips' peak (Chowdhery et al. 2022, appendix B)."""
        known = chip(self.device)
        if known is None:
            return None
        return self.spec.step_flops / self.repeated.step / (known.flops * self.devices)


def benchmark(spec: RunSpec, *, steps: int, profile: Path | None = None) -> Result:
    """Compiles and times `steps` training steps with the whole batch on the devices of this process.

    Args:
      profile: a folder for a trace of five steps, for TensorBoard or xprof.

    Raises:
      UserError: the config does not fit the devices.
    """
    config = spec.config
    mesh = sharding.make_mesh(config.mesh)
    check_fits(spec, mesh)
    arrays = batch_spec(config.data, rows=config.train.global_batch_size)
    hits: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    with jax.set_mesh(mesh), _batches(spec, mesh) as (batches, why_synthetic):
        start = time.perf_counter()
        lowered = jit_train_step(spec, mesh, spec.stages[-1]).lower(
            abstract_state(spec, mesh),
            sharding.abstract_batch(arrays, mesh),
            abstract_constants(spec, mesh),
        )
        hits.clear()
        step = lowered.compile()
        compile_seconds = time.perf_counter() - start
        from_cache = "/jax/compilation_cache/cache_hits" in hits
        timer = _Timer(spec, mesh, step)
        again = itertools.repeat(next(batches))
        timer.run(again, WARM_UP)
        repeated = timer.run(again, steps)
        loaded = None
        if not why_synthetic:
            loaded = timer.run(batches, steps, after=steps)  # what was read ahead would hide a slow loader
        if profile is not None:
            with jax.profiler.trace(str(profile)):
                timer.run(again, 5)
        statistics_of_device = jax.local_devices()[0].memory_stats()
        analysis = step.memory_analysis()
    return Result(
        spec=spec,
        device=jax.devices()[0].device_kind,
        devices=jax.device_count(),
        compile_seconds=compile_seconds,
        from_cache=from_cache,
        state_bytes=analysis.output_size_in_bytes,
        temporary_bytes=analysis.temp_size_in_bytes,
        peak_bytes=statistics_of_device["peak_bytes_in_use"] if statistics_of_device else None,
        repeated=repeated,
        loaded=loaded,
        why_synthetic=why_synthetic,
    )


def report(result: Result) -> Iterator[str]:
    """What was measured, line by line."""
    spec, config, timing = result.spec, result.spec.config, result.repeated
    rows = config.train.global_batch_size
    yield f"{result.devices} x {result.device}, jax {jax.__version__}"
    yield (
        f"{rows:,} rows of {config.data.sequence_length} a step, {config.model.dtype}, attention "
        f"{spec.kernels.names}, remat {config.model.remat}, {config.train.microbatches} microbatch(es)"
    )
    batches = f"synthetic: {result.why_synthetic}" if result.why_synthetic else f"of {config.data.dir}"
    yield f"batches are {batches}"
    yield ""
    how = "from the cache" if result.from_cache else "compiled"
    yield f"ready in                 {result.compile_seconds:10.1f} s  {how}"
    low, high = min(timing.seconds), max(timing.seconds)
    yield (
        f"a step                   {timing.step * 1e3:10.1f} ms  median of {len(timing.seconds)}, "
        f"{low * 1e3:.1f} to {high * 1e3:.1f}"
    )
    yield f"tokens a second          {rows * config.data.sequence_length / timing.step:10,.0f}"
    yield f"real tokens a second     {timing.real_tokens_per_second:10,.0f}  without padding"
    flops = spec.step_flops / timing.step
    yield f"products                 {flops / 1e12:10.3f} TFLOP/s, analytic"
    if result.mfu is None:
        yield "MFU                      not known: no peak for this device"
    else:
        yield f"MFU                      {result.mfu:10.1%} of the peak in bfloat16"
    yield f"memory of a device       {result.state_bytes / 1e9:10.3f} GB state"
    yield f"                         {result.temporary_bytes / 1e9:10.3f} GB temporary, as compiled"
    if result.peak_bytes is not None:
        yield f"                         {result.peak_bytes / 1e9:10.3f} GB at the peak"
    host, ahead = statistics.median(timing.host), statistics.median(timing.ahead)
    yield f"host                     {host * 1e3:10.1f} ms a step, until the devices have it"
    yield f"  dispatched ahead       {ahead * 1e3:10.1f} ms before the step before is over"
    if result.loaded is None:
        yield "waiting for the loader   not measured: the batches are synthetic"
    else:
        stall = statistics.mean(result.loaded.seconds) / statistics.mean(timing.seconds) - 1
        yield f"waiting for the loader   {statistics.mean(result.loaded.waited) * 1e3:10.1f} ms a step"
        yield f"  a step gets longer by  {stall:10.1%}  than with one batch again and again"


class _Timer:
    """Runs steps on a state of its own."""

    def __init__(self, spec: RunSpec, mesh: Mesh, step: Any):
        self._step = step
        self._place = functools.partial(
            sharding.global_batch, mesh=mesh, batch_size=spec.config.train.global_batch_size
        )
        self._state, self._constants = jit_init_state(spec, mesh)(), teacher_constants(spec, mesh)

    def run(self, on_host: Iterator[Batch], steps: int, *, after: int = 0) -> Timing:
        """Times `steps` steps, `after` others, as the loop does them: a thread places the batches ahead, and
        the metrics of a step are read when the next one was dispatched."""
        timing = Timing([], [], [], [], [])
        with prefetched(itertools.islice(on_host, after + steps + 1), self._place) as batches:
            start, pending = time.perf_counter(), None
            for number, batch in enumerate(batches):
                got = time.perf_counter()
                self._state, metrics = self._step(self._state, batch, self._constants)
                given = time.perf_counter()
                tokens = 0 if pending is None else int(jax.device_get(pending)["tokens"])
                end, pending = time.perf_counter(), metrics
                if number > after:
                    timing.seconds.append(end - start)
                    timing.tokens.append(tokens)
                    timing.waited.append(got - start)
                    timing.host.append(given - got)
                    timing.ahead.append(end - given)
                start = end
        jax.block_until_ready(self._state)
        return timing


@contextlib.contextmanager
def _batches(spec: RunSpec, mesh: Mesh) -> Iterator[tuple[Iterator[Batch], str]]:
    """Batches of the prepared dataset; or synthetic ones, and why."""
    config = spec.config
    batch_size = config.train.global_batch_size
    rows = sharding.local_rows(mesh, batch_size)
    with contextlib.ExitStack() as stack:
        batches, why = _synthetic(spec, rows=len(rows)), ""
        try:
            from data_pipeline.loader import Loader
            from data_pipeline.manifest import Manifest

            Manifest.load(dataset_folder(config.data.dir)).check(config.data)
            loader = Loader(config.data, split="train", batch_size=batch_size, rows=rows)
            batches = iter(stack.enter_context(loader))
        except (ImportError, FileNotFoundError, UserError) as error:
            why = str(error)
        yield batches, why


def _synthetic(spec: RunSpec, *, rows: int) -> Iterator[Batch]:
    """One batch of full rows with every prediction used, again and again."""
    arrays = batch_spec(spec.config.data, rows=rows)
    draw = np.random.default_rng(0)
    S, vocab_size = spec.rows.sequence_length, spec.network.model.vocab_size
    halves = np.zeros(arrays["segment_lengths"][0])
    halves[:, 0] = S // 2, S - S // 2
    values: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
        "token_ids": lambda shape: draw.integers(0, vocab_size, shape),
        "segment_lengths": lambda shape: halves,
        "pair_labels": lambda shape: draw.integers(0, 2, shape),
        "mlm_positions": lambda shape: np.sort(draw.integers(1, S, shape), axis=1),
        "mlm_targets": lambda shape: draw.integers(0, vocab_size, shape),
    }
    batch = {name: values[name](shape).astype(dtype) for name, (shape, dtype) in arrays.items()}
    while True:
        yield batch
