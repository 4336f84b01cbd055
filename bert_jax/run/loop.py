"""The training loop: from a config, a feed of rows and a workdir to checkpoints."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.config import Config
from bert_jax.config.files import to_json
from bert_jax.interop.initialize import start_from
from bert_jax.ops.attention import choose
from bert_jax.parallel import sharding
from bert_jax.parallel.processes import Agreement, Interruption, same_everywhere, wait_for_all
from bert_jax.run.clock import Clock
from bert_jax.run.data import Feed, PretrainingFeed
from bert_jax.run.loss_monitor import PATIENCE, LossSpike, Sentinel
from bert_jax.run.metrics import Reporter
from bert_jax.run.preflight import check_workdir, machines
from bert_jax.run.watchdog import Watchdog
from bert_jax.training.batch_ramp import rows_before, stages
from bert_jax.training.budget import in_steps
from bert_jax.training.fits import check_fits
from bert_jax.training.step import jit_init_state, jit_train_step
from bert_jax.workdir.checkpoint import FRESH, Checkpoints, Progress, best_of
from bert_jax.workdir.history import History, passed_over
from bert_jax.workdir.provenance import provenance
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)


def pretrain(config: Config, *, workdir: Path) -> bool:
    """`train` on the prepared dataset in `data.dir`."""
    return train(config, PretrainingFeed, workdir=workdir)


def train(config: Config, open_feed: Callable[[Config], Feed], *, workdir: Path) -> bool:
    """Trains to `train.steps`, the end of `train.budget` or `train.stop_at`, from the workdir's latest
    checkpoint on if it has one.

    Returns:
      True if the run came to its end, False if a signal stopped it; either way its state is saved.

    Raises:
      FileNotFoundError, UserError: config, dataset or workdir cannot be used; nothing was written.
      UserError: loss or gradient were not finite in too many steps in a row.
      OSError: checkpoints cannot be written.
    """
    clock = Clock()
    config = in_steps(config)
    with Watchdog(clock, seconds=config.train.hang_seconds):
        feed = open_feed(config)
        mesh = sharding.make_mesh(config.mesh)
        check_fits(config, mesh)
        config = choose(config, platform=jax.default_backend())
        check_workdir(config, workdir)
        with (
            jax.set_mesh(mesh),
            Interruption(mesh) as interruption,
            Checkpoints(workdir, config, fingerprint=feed.fingerprint) as checkpoints,
        ):
            run = _Run(config, mesh, workdir, feed, checkpoints, interruption, clock)
            finished = run.train()
            clock.enter("save", step=run.step)
    run.history.add("end", step=run.step, finished=finished, seconds=clock.seconds)
    log.info("%s", clock)
    if not finished:
        log.warning("%s at step %d: saved; the same command goes on", interruption.signal_name, run.step)
    return finished


class _Run:
    """The loop and what it works with. `step` is how many are done, `state` what they made."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        workdir: Path,
        feed: Feed,
        checkpoints: Checkpoints,
        interruption: Interruption,
        clock: Clock,
    ):
        self.config, self.mesh, self.workdir, self.feed = config, mesh, workdir, feed
        self.checkpoints, self.interruption, self.clock = checkpoints, interruption, clock
        self.history = History(workdir)
        self.last = config.train.stop_at or config.train.most_steps
        self.jitted = [(stage, jit_train_step(stage.of(config), mesh)) for stage in stages(config.train)]
        self.evaluator = feed.evaluator(config, mesh)
        self._restore()
        self.clock.earlier = self.progress.seconds
        self.spent = self._part_of_budget(self.progress.seconds)
        self.agreement = Agreement(mesh, first=self.spent)
        facts = provenance(config, workdir=workdir)
        self.history.add("start", step=self.step, **facts, baselines=feed.baselines)
        if jax.process_index() == 0:  # config and tokenizer: with a checkpoint, all that an export needs
            feed.write_tokenizer(workdir / "tokenizer")
            _write_config(config, workdir)
        log.info("%s", machines(config, mesh))
        log.info("attention: %s", config.model.attention)

    def train(self) -> bool:
        """To the end, or until a signal; False if it was one."""
        while True:
            try:
                return self._train()
            except LossSpike as spike:
                self._roll_back(at=spike.step)

    def _restore(self) -> None:
        """The newest checkpoint, or the state before the first step."""
        self.clock.enter("start", step=0)
        self.progress = FRESH
        if self.checkpoints.latest_step() is None:
            self.state = jit_init_state(self.config, self.mesh)()
            init = self.config.init
            if init.source is not None and init.weights:
                self.state = start_from(Path(init.source), self.config, self.mesh, self.state)
        else:
            self.state, self.progress = self.checkpoints.restore(self.mesh)
            log.info("going on from step %d of %s", self.state.step, self.workdir)
        self.step = int(self.state.step)

    def _train(self) -> bool:
        config, clock, checkpoints = self.config, self.clock, self.checkpoints
        losses, tokens = self.progress.losses, self.progress.tokens
        sentinel = Sentinel(config, self.history, losses=losses, records_of=self._records_of)
        with (
            Reporter(
                config, self.workdir, start=self.step, tokens=tokens, sentinel=sentinel, clock=clock
            ) as report,
            contextlib.closing(self._batches(report)) as batches,
            jax.transfer_guard("disallow"),
        ):
            self.validation_values = report.validation_values
            for known, value in self.validation_values.items():
                checkpoints.note(known, value)
            # A run that was stopped while it evaluated has saved, but lacks the metrics of that step.
            missing = self._evaluates() and self.step not in self.validation_values
            stopping = bool(same_everywhere(int(missing))) and not self._evaluate(report)
            compiled = None
            while not stopping and not self._is_at_end() and not self._has_waited_enough():
                clock.enter("input", step=self.step + 1)
                run_step, batch = next(batches)
                new, compiled = run_step is not compiled, run_step
                clock.enter("compile" if new else "step", step=self.step + 1)
                self.state, metrics = run_step(self.state, batch, *self._place())
                self.step += 1
                clock.enter("step", step=self.step)
                report.advance()
                report.flush()  # an earlier step's metrics, while this one runs
                stopping = self.interruption.agreed()
                self.spent = self.agreement.largest(self._part_of_budget(clock.total))
                saving = stopping or self._is_at_end() or self.step % config.checkpoint.every == 0
                evaluating = self._evaluates() and not stopping
                shown = saving or self.step % config.train.log_every == 0
                report.train(self.step, metrics, shown=shown, compiled=new)
                if saving or evaluating:
                    report.flush()
                clock.enter("save", step=self.step)
                checkpoints.settle(wait=False)
                if saving:
                    self._save(report, sentinel)
                if evaluating and not self._evaluate(report):
                    stopping = True
                    clock.enter("save", step=self.step)
                    self._save(report, sentinel)
        return not stopping

    def _batches(self, report: Reporter) -> Generator[tuple[Any, dict[str, jax.Array]]]:
        """For each step from the present one to the last: the jitted function of its stage, and its batch."""
        train, start = self.config.train, self.step
        jumps = {entry["to"] for entry in self.history.events("rollback")}
        for stage, run_step in self.jitted:
            first, stop = max(start, stage.start), min(self.last, stage.stop)
            if first >= stop:
                continue
            if train.batch_ramp:
                parts = stage.microbatches
                log.info("from step %d on: %d rows, %d microbatch(es)", first + 1, stage.rows, parts)
            for begin, end in pairwise(sorted({first, stop} | {to for to in jumps if first < to < stop})):
                report.flush()  # an earlier step's time is not that of opening these, and of compiling
                with self.feed.batches(
                    batch_size=stage.rows,
                    rows=sharding.local_rows(self.mesh, stage.rows),
                    start=begin,
                    rows_before=self._rows_before(begin),
                ) as batches:
                    for _ in range(begin, end):
                        yield run_step, sharding.global_batch(next(batches), self.mesh, batch_size=stage.rows)

    def _rows_before(self, step: int) -> int:
        """Rows of the stream before those of step `step` + 1, with those that rollbacks have passed over."""
        return rows_before(self.config.train, step) + passed_over(self.history.events("rollback"), step=step)

    def _records_of(self, step: int) -> list[int]:
        return self.feed.records(range(self._rows_before(step - 1), self._rows_before(step)))

    def _evaluates(self) -> bool:
        train = self.config.train
        due = (
            self.step == train.most_steps
            or self.spent >= 1
            or (self.step > 0 and self.step % train.eval_every == 0)
        )
        return due and self.feed.has_validation

    def _evaluate(self, report: Reporter) -> bool:
        """Reports held-out metrics; False if a signal came before they were complete."""
        self.clock.enter("evaluation", step=self.step)
        metrics = self.evaluator(self.state.params, self._stop_evaluation)
        if metrics is None:
            return False
        best = self.config.checkpoint.best
        if best not in metrics:
            raise UserError(
                f"checkpoint.best {best!r} is no validation metric; there are {', '.join(metrics)}"
            )
        report.validation(self.step, metrics)
        self.validation_values[self.step] = metrics[best]
        self.checkpoints.note(self.step, metrics[best])
        return True

    def _is_at_end(self) -> bool:
        return self.step >= self.last or self.spent >= 1

    def _part_of_budget(self, seconds: float) -> float:
        """Of the hours, if there is a budget of hours: at 1 it is over. 0 without one."""
        hours = self.config.train.hours
        return 0.0 if hours is None else min(1.0, seconds / (3600 * hours))

    def _place(self) -> tuple[jax.Array, ...]:
        """In the schedule of a budget of hours, as a step takes it; () where that is the step."""
        if self.config.train.hours is None:
            return ()
        return (sharding.scalar(self.spent, self.mesh),)

    def _save(self, report: Reporter, sentinel: Sentinel) -> None:
        # Another process may be further in the budget than this one, and the schedule has followed that.
        seconds = max(self.clock.total, self.spent * (3600 * (self.config.train.hours or 0.0)))
        progress = Progress(tuple(sentinel.losses), report.tokens, seconds)
        self.checkpoints.save(self.step, self.state, progress)

    def _has_waited_enough(self) -> bool:
        """Whether `task.patience` evaluations came after the best one."""
        patience, best = self.config.task.patience, best_of(self.validation_values, self.config.checkpoint)
        later = [step for step in self.validation_values if best is not None and step > best]
        return patience is not None and len(later) >= patience

    def _stop_evaluation(self) -> bool:
        self.clock.enter("evaluation", step=self.step)  # a sign of progress
        return self.interruption.agreed()

    def _roll_back(self, *, at: int) -> None:
        """To the newest checkpoint from before a spike that was seen `at` a step, and past what led to it."""
        to = self.checkpoints.forget_after(at - PATIENCE)
        rows = self._rows_before(at) - rows_before(self.config.train, to)
        self.history.add("rollback", at=at, to=to, passed_over=rows)
        wait_for_all(f"rollback from step {at}")
        log.warning("going back from step %d to step %d, and on with other rows", at, to)
        self._restore()


def _write_config(config: Config, workdir: Path) -> None:
    unfinished = workdir / "config.json.unfinished"
    unfinished.write_text(to_json(config))
    os.replace(unfinished, workdir / "config.json")
