"""The training loop: from a run's spec, its data and a workdir to checkpoints."""

from __future__ import annotations

import contextlib
import functools
import logging
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from bert_jax.interop.initialize import start_from
from bert_jax.interop.teacher import teacher_constants
from bert_jax.models.encoder import Batch
from bert_jax.models.stack import restack, take_apart
from bert_jax.parallel import sharding
from bert_jax.parallel.processes import DelayedMax, PreemptionSignal
from bert_jax.run.clock import Clock
from bert_jax.run.compile_ahead import CompileAhead, abstract
from bert_jax.run.data import TrainingData
from bert_jax.run.early_stopping import patience_exhausted, record_evaluation
from bert_jax.run.garbage import ScheduledGarbage
from bert_jax.run.loss_monitor import SPIKE_LENGTH, Verdict, check
from bert_jax.run.metrics import MetricsWriter, Throughput, describe_records
from bert_jax.run.prefetch import prefetched
from bert_jax.run.preflight import check_workdir, describe_devices
from bert_jax.run.watchdog import Watchdog
from bert_jax.training.batch_ramp import Stage, stage_of
from bert_jax.training.fits import check_fits
from bert_jax.training.moving_average import OF_AVERAGE, average_in
from bert_jax.training.network import with_constants
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import abstract_state, jit_init_state, jit_train_step
from bert_jax.workdir import run_files
from bert_jax.workdir.bucket import root_of, source_folder, upload_logs
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.history import History
from bert_jax.workdir.lease import Lease
from bert_jax.workdir.progress import Progress
from bert_jax.workdir.provenance import provenance
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)


def train(spec: RunSpec, make_data: Callable[[RunSpec], TrainingData], *, workdir: Path) -> bool:
    """Trains to the last step, the end of the budget or `train.stop_at`; resumes from the latest checkpoint.

    Returns:
      True if the run came to its end, False if a signal stopped it; either way its state is saved.

    Raises:
      FileNotFoundError, UserError: config, dataset or workdir cannot be used, and nothing was written; or
        loss or gradient were not finite in too many steps in a row.
      OSError: checkpoints cannot be written.
    """
    clock = Clock()
    with Watchdog(clock, seconds=spec.config.train.watchdog_seconds):
        data = make_data(spec)
        mesh = sharding.make_mesh(spec.config.mesh)
        check_fits(spec, mesh)
        check_workdir(spec, workdir)
        with jax.set_mesh(mesh), Lease(workdir):
            with (
                PreemptionSignal(mesh) as preemption,
                Checkpoints(workdir, spec, fingerprint=data.fingerprint) as checkpoints,
            ):
                run = _Run(spec, mesh, workdir, data, checkpoints, preemption, clock)
                with MetricsWriter(spec, workdir, start=run.step, clock=clock) as run.writer:
                    finished = run.train()
                clock.enter("save", step=run.step)  # which leaving the block waits for
                if finished:  # whoever is about to be killed does without the digests
                    checkpoints.wait()
            run.history.add("end", step=run.step, finished=finished, seconds=clock.seconds)
    log.info("%s", clock)
    if not finished:
        log.warning("%s at step %d: saved; run the same command to resume", preemption.name, run.step)
    return finished


class _Pending(NamedTuple):
    """A step that was dispatched and whose metrics were not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    positions: range
    """The positions of its rows in the stream."""
    columns: int
    """Of its batch."""
    compiled: bool
    """Its program was compiled only now: the time up to its end does not count as training."""


class _Spike(NamedTuple):
    """A spike of the loss that is to be answered by a rollback."""

    step: int
    """The step at which it was seen."""
    position: int
    """The position in the stream of rows behind that step."""


class _Run:
    """The loop and its variables: `state` and `progress`, after `step` steps."""

    writer: MetricsWriter

    def __init__(
        self,
        spec: RunSpec,
        mesh: Mesh,
        workdir: Path,
        data: TrainingData,
        checkpoints: Checkpoints,
        preemption: PreemptionSignal,
        clock: Clock,
    ):
        self.spec, self.mesh, self.workdir, self.data = spec, mesh, workdir, data
        self.checkpoints, self.preemption, self.clock = checkpoints, preemption, clock
        self.history = History(workdir)
        self.throughput = Throughput(spec)
        self.evaluator = data.evaluator(spec, mesh)
        self.train_steps = {stage: jit_train_step(spec, mesh, stage) for stage in spec.stages}
        self.compiled: set[tuple[Stage, int]] = set()
        """Stages with the widths of their batches."""
        self.ahead = CompileAhead()
        self.saved = abstract_state(spec.scanned, mesh)  # the layout of the state in a checkpoint
        self.last_step = spec.config.train.stop_at or spec.max_steps
        self.constants = teacher_constants(spec, mesh)
        self.pending: _Pending | None = None
        self.spiked: _Spike | None = None
        self.restore()
        clock.earlier = self.progress.seconds
        self.budget_fraction = self.fraction_of_budget(self.progress.seconds)
        self.largest_fraction = DelayedMax(mesh, first=self.budget_fraction)
        facts = provenance(spec, workdir=workdir)
        self.history.add("start", step=self.step, **facts, baselines=data.baselines)
        if jax.process_index() == 0:  # config and tokenizer: with a checkpoint, all that an export needs
            data.write_tokenizer(workdir / "tokenizer")
            run_files.write(spec, workdir)
        log.info("%s", describe_devices(spec, mesh))
        log.info("%s steps; attention kernel %s", f"{spec.steps:,}", spec.kernels.names)

    def restore(self) -> None:
        """Where the state comes from:

        1. the newest good checkpoint of the workdir, or else
        2. initial parameters, a function of train.seed, and over them
        3. the weights of init.source, if there is one.
        """
        self.clock.enter("start", step=0)
        init = self.spec.config.init
        if self.checkpoints.latest_step() is not None:
            state, self.progress = self.checkpoints.restore(self.mesh)
            log.info("resuming from step %d of %s", state.step, root_of(self.workdir))
        else:
            state, self.progress = jit_init_state(self.spec.scanned, self.mesh)(), Progress()
            if init.source is not None and init.weights:
                state = start_from(source_folder(init.source), self.spec, self.mesh, state)
        self.state = take_apart(state, like=abstract_state(self.spec, self.mesh))
        self.step = int(self.state.step)

    def train(self) -> bool:
        """Trains to the end, or until a signal; False if it was one."""
        stopping = False
        if self.evaluation_is_due():  # a signal during the evaluation of this step has saved it without
            validation = self.evaluate()
            stopping = validation is None
            if validation is not None and self.checkpoints.latest_step() == self.step:
                self.save(validation)
        with ScheduledGarbage() as garbage, contextlib.ExitStack() as loader, jax.transfer_guard("disallow"):
            stage: Stage | None = None
            while not stopping and not self.finished():
                self.clock.enter("input", step=self.step + 1)
                if stage is not (stage := stage_of(self.spec.stages, self.step)):
                    self.read_metrics()  # or the time of that step would be that of what follows
                    loader.close()
                    batches = loader.enter_context(self.open_loader(stage))
                self.dispatch(stage, next(batches))
                garbage.after(self.step)
                stopping = self.preemption.reached()
                if self.spec.config.train.hours is not None:
                    self.budget_fraction = self.largest_fraction(self.fraction_of_budget(self.clock.total))
                evaluating = self.evaluation_is_due() and not stopping
                saving = stopping or self.finished() or self.step % self.spec.checkpoint_every == 0
                if saving or evaluating:
                    self.read_metrics(write=saving)
                if self.spiked is not None:
                    self.roll_back(self.spiked)
                    stage, stopping = None, False
                    continue
                validation = self.evaluate() if evaluating else None
                stopping = stopping or (evaluating and validation is None)
                self.clock.enter("save", step=self.step)
                self.checkpoints.poll_save(wait=False)
                if saving or stopping or self.finished():
                    self.save(validation)
        return not stopping

    def dispatch(self, stage: Stage, batch: Batch) -> None:
        """Starts the next step, and reads the metrics of the one before while this one runs."""
        train, clock = self.spec.config.train, self.clock
        columns = batch["token_ids"].shape[1]
        compiled = (stage, columns) not in self.compiled
        clock.enter("compile" if compiled else "step", step=self.step + 1)
        # With a budget of hours the place in the schedule is the clock's; otherwise it is the step.
        place = () if train.hours is None else (sharding.scalar(self.budget_fraction, self.mesh),)
        if compiled:
            self.ahead.wait()
        self.state, metrics = self.train_steps[stage](self.state, batch, self.constants, *place)
        self.step += 1
        clock.enter("step", step=self.step)
        if compiled:
            self.compiled.add((stage, columns))
            self.compile_next(stage, batch, place)
        self.writer.advance()
        self.read_metrics()
        start = self.progress.position
        self.progress = self.progress._replace(position=start + stage.rows)
        self.pending = _Pending(self.step, metrics, range(start, start + stage.rows), columns, compiled)

    def compile_next(self, stage: Stage, batch: Batch, place: tuple[jax.Array, ...]) -> None:
        """Begins to compile the step of the next stage of a batch ramp, if one comes before the last step."""
        later = (after for after in self.spec.stages if stage.stop <= after.start < after.stop)
        following = next(later, None)
        if following is None or following.start >= self.last_step:
            return
        rows = functools.partial(abstract, rows=following.rows)
        rest = jax.tree.map(abstract, (self.constants, *place))
        self.ahead.begin(
            self.train_steps[following], jax.tree.map(abstract, self.state), jax.tree.map(rows, batch), *rest
        )

    def read_metrics(self, *, write: bool = False) -> None:
        """Waits for the step that runs, if its metrics were not read; monitors its loss.

        Args:
          write: also if its turn to be logged has not come.
        """
        if self.pending is None:
            return
        (step, on_device, positions, columns, compiled), self.pending = self.pending, None
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        skipped, tokens = bool(metrics.pop("skipped")), metrics.pop("tokens")
        train = self.spec.config.train
        verdict, progress = check(train, self.progress, loss=metrics["loss"], skipped=skipped)
        self.progress = progress._replace(tokens=progress.tokens + int(tokens))
        if compiled:
            self.throughput.restart()
        else:
            self.throughput.add(rows=len(positions), columns=columns, tokens=tokens)
        if write or step % train.log_every == 0:
            metrics["skipped_steps"] = self.progress.skipped_steps
            metrics |= self.throughput.measure()
            metrics["goodput"] = self.clock.goodput
            self.writer.write(step, "train", metrics, tokens=self.progress.tokens)
        if verdict is not Verdict.FINE:
            self.respond(verdict, step, metrics, positions)

    def respond(self, verdict: Verdict, step: int, metrics: dict[str, float], positions: range) -> None:
        """Tells of a step that was skipped or a spike of the loss; asks for a rollback where one is left.

        Raises:
          UserError: too many steps in a row had no update.
        """
        train, progress = self.spec.config.train, self.progress
        records = self.data.records(positions)
        if verdict is Verdict.SPIKE:
            before = statistics.median(progress.losses)
            log.warning(
                "loss spike: %.4f at step %d, median before %.4f; records %s; %d of %d rollbacks used",
                metrics["loss"], step, before, describe_records(records), progress.rollbacks,
                train.max_rollbacks,
            )  # fmt: skip
            if progress.rollbacks < train.max_rollbacks:
                self.spiked = _Spike(step, positions.stop)
            return
        values = {name: str(metrics[name]) for name in ("loss", "grad_norm")}  # JSON has no NaN
        self.history.add("skipped", step=step, records=records, **values)
        log.warning(
            "step %d had no update: its loss is %s, its grad_norm %s; records %s",
            step, *values.values(), describe_records(records),
        )  # fmt: skip
        if verdict is Verdict.LOST:
            raise UserError(
                f"{progress.consecutive_skips} steps in a row, up to {step}, had no update: loss or "
                "grad_norm was not finite (history.jsonl has their records). The checkpoints are good. In "
                "a new --workdir, a lower optimizer.learning_rate, more optimizer.warmup_steps or "
                "model.dtype float32 often help"
            )

    def roll_back(self, spike: _Spike) -> None:
        """Goes back to the newest checkpoint before a spike, and on with the rows behind it."""
        self.pending = self.spiked = None
        rollbacks = self.progress.rollbacks + 1
        to = self.checkpoints.delete_after(spike.step - SPIKE_LENGTH)
        with jax.transfer_guard("allow"):
            self.restore()
        skipped_rows = spike.position - self.progress.position
        self.history.add("rollback", at=spike.step, to=to, skipped_rows=skipped_rows)
        log.warning("going back from step %d to step %d, and on with other rows", spike.step, to)
        self.progress = self.progress._replace(position=spike.position, rollbacks=rollbacks)
        self.writer.rewind(self.step)

    @contextlib.contextmanager
    def open_loader(self, stage: Stage) -> Iterator[Iterator[Batch]]:
        """The batches of a stage, on the devices, from the present step and position on."""
        if self.spec.config.train.batch_ramp:
            first, rows, parts = self.step + 1, stage.rows, stage.microbatches
            log.info("from step %d on: %d rows, %d microbatch(es)", first, rows, parts)
        here = sharding.local_rows(self.mesh, stage.rows)
        place = functools.partial(sharding.global_batch, mesh=self.mesh, batch_size=stage.rows)
        loader = self.data.batches(
            batch_size=stage.rows, rows=here, step=self.step, position=self.progress.position
        )
        with loader as on_host, prefetched(on_host, place) as batches:
            yield batches

    def evaluation_is_due(self) -> bool:
        due = (
            self.step == self.spec.max_steps
            or self.budget_fraction >= 1
            or (self.step > 0 and self.step % self.spec.eval_every == 0)
        )
        return due and self.data.has_validation and self.progress.evaluated < self.step

    def evaluate(self) -> dict[str, float] | None:
        """The held-out metrics, those of the moving average too where one is kept; None if a signal came."""

        def stop() -> bool:
            self.clock.enter("evaluation", step=self.step)  # a heartbeat, for the watchdog
            return self.preemption.reached()

        self.clock.enter("evaluation", step=self.step)
        metrics = self.evaluator(with_constants(self.state.params, self.constants), stop)
        if metrics is not None and self.spec.config.optimizer.ema_decay is not None:
            average = with_constants(average_in(self.state.opt_state), self.constants)
            averaged = self.evaluator(average, stop)
            metrics = averaged and metrics | {f"{OF_AVERAGE}{name}": v for name, v in averaged.items()}
        if metrics is None:
            return None
        best = self.spec.best
        self.progress = record_evaluation(
            self.progress, step=self.step, value=metrics[best.name], metric=best
        )
        self.writer.write(self.step, "validation", metrics, tokens=self.progress.tokens)
        self.throughput.restart()
        return metrics

    def save(self, validation: dict[str, float] | None) -> None:
        """Starts a checkpoint; with the held-out metrics of this step, if it was evaluated."""
        # Another process may be further in the budget than this one, and the schedule has followed that.
        budget = 3600 * (self.spec.config.train.hours or 0.0)
        seconds = max(self.clock.total, self.budget_fraction * budget)
        self.clock.enter("save", step=self.step)
        progress = self.progress._replace(seconds=seconds)
        upload_logs(self.workdir)
        state = restack(self.state, like=self.saved)  # copies of the layers, freed with the save
        self.checkpoints.save(self.step, state, progress, validation=validation)

    def finished(self) -> bool:
        """Whether no step is left: the last one was done, the budget is over, or patience is exhausted."""
        patience = self.spec.config.task.patience if self.spec.config.task else None
        return (
            self.step >= self.last_step
            or self.budget_fraction >= 1
            or patience_exhausted(self.progress, patience=patience)
        )

    def fraction_of_budget(self, seconds: float) -> float:
        """The part of a budget of hours that is over, at most 1; 0 without one."""
        hours = self.spec.config.train.hours
        return 0.0 if hours is None else min(1.0, seconds / (3600 * hours))
