"""Checkpoints of a run, written and read with Orbax: asynchronous, with digests.

A checkpoint counts once Orbax has committed it, by renaming its folder. Names and sizes of its files are
written just before, their digests after: a commit does not wait for gigabytes to be read back.

Parameters are an item of their own: who uses a model reads a third of what who trains it does. Layers are
stacked, however the run computes them; the loop converts (models/stack.py).
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from bert_jax.config import CheckpointConfig, MeshConfig
from bert_jax.config.as_json import to_json
from bert_jax.parallel import sharding
from bert_jax.parallel.processes import assert_processes_agree, from_process_0, wait_until_visible
from bert_jax.training.moving_average import average_in
from bert_jax.training.network import Params
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import TrainState, abstract_state
from bert_jax.workdir import digests
from bert_jax.workdir.arrays import ArraysHandler, ArraysRestore, ArraysSave
from bert_jax.workdir.digests import BackgroundDigests
from bert_jax.workdir.inventory import (
    REPLACED,
    checkpoints_of,
    damage,
    newest_good_step,
    set_aside,
    settle_replaced,
    steps_of,
)
from bert_jax.workdir.progress import Progress
from bert_jax.workdir.resume import incompatible_changes
from bert_jax.workdir.run_files import config_from_json, spec_from_json, spec_to_json
from data_pipeline.errors import UserError
from data_pipeline.storage import check_may_delete, refusal, url_of

log = logging.getLogger(__name__)

TENSORSTORE_STATUS = re.compile("[A-Z_]+: ")
"""What its errors begin with, such as `OUT_OF_RANGE: ` or `UNAVAILABLE: `."""

PARAMS, OPTIMIZER = "params", "optimizer"
"""Items of a checkpoint: folders in it."""


def read_state(workdir: Path, spec: RunSpec, *, step: int | None = None) -> TrainState:
    """A checkpoint on one device, beside a run that is training; arguments as in `Checkpoints.restore`."""
    with Checkpoints(workdir, spec, read_only=True) as checkpoints:
        return checkpoints.restore(_one_device(), step=step)[0]


def read_params(
    workdir: Path, spec: RunSpec, *, step: int | None = None, mesh: Mesh | None = None
) -> tuple[Params, int]:
    """The parameters of a checkpoint, on `mesh` or on one device, and its step."""
    with Checkpoints(workdir, spec, read_only=True) as checkpoints:
        return checkpoints.restore_params(mesh or _one_device(), step=step)


def read_moving_average(workdir: Path, spec: RunSpec, *, step: int | None = None) -> tuple[Params, int]:
    """The exponential moving average in a checkpoint, on one device, and its step.

    Raises UserError if the run keeps none.
    """
    if spec.config.optimizer.ema_decay is None:
        raise UserError(f"{workdir} has no moving average: its optimizer.ema_decay is None")
    state = read_state(workdir, spec, step=step)
    return average_in(state.opt_state), int(state.step)


def read_mean(workdir: Path, spec: RunSpec, *, steps: Sequence[int]) -> Params:
    """The mean of the parameters of several checkpoints, on one device, with one of them in memory at a time
    (Izmailov et al. 2018, arXiv 1803.05407)."""
    mesh = _one_device()
    with Checkpoints(workdir, spec, read_only=True) as checkpoints:
        total, _ = checkpoints.restore_params(mesh, step=steps[0])
        for step in steps[1:]:
            total = jax.tree.map(jnp.add, total, checkpoints.restore_params(mesh, step=step)[0])
    return jax.tree.map(lambda x: x / len(steps), total)


def _one_device() -> Mesh:
    return sharding.make_mesh(MeshConfig(), devices=jax.local_devices()[:1])


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits for the last write.

    Args:
      workdir: checkpoints are in `workdir/checkpoints`.
      spec: of the run; saved along, and compared before a restore.
      fingerprint: of the dataset, likewise; None where no dataset is at hand (export).
      read_only: leaves everything as it is, for a look beside a run that is training. Otherwise damaged
        ones are set aside, and what a killed run left half-written is removed.
    """

    def __init__(
        self, workdir: Path, spec: RunSpec, *, fingerprint: str | None = None, read_only: bool = False
    ):
        self._spec = spec
        self._fingerprint = fingerprint
        self._workdir = workdir
        self._directory = checkpoints_of(workdir)
        self._read_only = read_only
        self._failures = 0
        self._being_written: int | None = None
        self._digests = BackgroundDigests()
        if url_of(self._directory) and not read_only:
            from_process_0(lambda: check_may_delete(self._directory))
        self._newest = from_process_0(lambda: newest_good_step(workdir, quarantine=not read_only))
        self._manager = self._open()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._read_only:
            self.poll_save(wait=True)
            if self._failures:
                raise OSError(f"{self._directory}: the last checkpoint could not be written")
        with _disk_errors(self._directory):
            self._manager.close()

    def latest_step(self) -> int | None:
        """The newest good checkpoint, or the one that is being written; None if there is none."""
        return None if self._newest < 0 else self._newest

    def save(
        self, step: int, state: TrainState, progress: Progress, *, validation: dict[str, float] | None = None
    ) -> None:
        """Starts to write a checkpoint, in place of one of this step; returns once the state is copied.

        A disk that refuses it is warned of; the next one is tried.

        Args:
          validation: the metrics of this step, if it was evaluated.

        Raises:
          OSError: more than `checkpoint.max_save_failures` in a row failed.
        """
        self.poll_save(wait=True)
        if from_process_0(lambda: step in steps_of(self._workdir)):
            self._set_aside(step)  # it was saved by a signal, before its evaluation
        run = {
            "config": to_json(self._spec.config),
            "resolved": spec_to_json(self._spec),
            "fingerprint": self._fingerprint,
            "progress": progress._asdict(),
        }
        arrays = {item: ArraysSave(tree) for item, tree in _items(state).items()}
        items = ocp.args.Composite(**arrays, run=ocp.args.JsonSave(run))
        value = math.nan if validation is None else validation[self._spec.best.name]
        metrics = {"value": value, "step": step, "validation": validation} if math.isfinite(value) else None
        self._being_written, self._before = step, self._newest
        self._newest = step
        # The training loop forbids copies that nobody asked for; this one is asked for.
        with jax.transfer_guard("allow"), self._tolerate_disk_errors():
            self._manager.save(step, args=items, metrics=metrics)

    def poll_save(self, *, wait: bool) -> None:
        """Takes note of how the last write ended, if it has; warns of a failure."""
        if self._being_written is not None:
            if not wait and self._manager.is_saving_in_progress():
                return
            with self._tolerate_disk_errors():
                self._manager.wait_until_finished()
                if jax.process_index() == 0:
                    self._digests.add(self._directory / str(self._being_written))
                    settle_replaced(self._workdir)
                self._being_written, self._failures = None, 0
        self._digests.write_found()

    def wait(self) -> None:
        """Returns when the last checkpoint is written, and its digests are too."""
        self.poll_save(wait=True)
        self._digests.wait()

    def delete_after(self, step: int) -> int:
        """Deletes the checkpoints of later steps. Returns the newest step left, 0 if there is none."""
        self.wait()
        self._manager.close()

        def delete() -> int:
            left = [-1]
            for found in steps_of(self._workdir):
                if found > step:
                    (self._directory / str(found)).rmtree()
                else:
                    left.append(found)
            return max(left)

        self._newest = from_process_0(delete)
        self._manager = self._open()
        return max(self._newest, 0)

    def restore(self, mesh: Mesh, *, step: int | None = None) -> tuple[TrainState, Progress]:
        """The state of `step`, or of the newest good one, laid out on `mesh`; and what was saved with it.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          UserError: it is damaged, or of another config, dataset or shape; names what differs.
        """
        step = self._step_to_read(step)
        progress = self._check_run(step)
        restored = self._restore_items(step, _items(abstract_state(self._spec.scanned, mesh)))
        optimizer = restored[OPTIMIZER]
        return TrainState(optimizer["step"], restored[PARAMS], optimizer["opt_state"]), progress

    def restore_params(self, mesh: Mesh, *, step: int | None = None) -> tuple[Params, int]:
        """Its parameters alone, and its step. Arguments and errors as of `restore`."""
        step = self._step_to_read(step)
        self._check_run(step)
        abstract = _items(abstract_state(self._spec.scanned, mesh))
        return self._restore_items(step, {PARAMS: abstract[PARAMS]})[PARAMS], step

    def _step_to_read(self, step: int | None) -> int:
        if step is None and self._newest >= 0:  # process 0 has seen it
            return self._newest
        if step in steps_of(self._workdir) and (wrong := damage(self._workdir, step)):
            raise UserError(f"the checkpoint of step {step} in {self._directory} is damaged: {wrong}")
        if step is None or step not in self._manager.all_steps():
            have = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise FileNotFoundError(f"{self._directory} has no {wanted} (there: {have})")
        return step

    def _restore_items(self, step: int, abstract: dict[str, Any]) -> Any:
        """Items of a checkpoint: arrays of the shapes and layout of these."""
        for item, tree in abstract.items():  # the manager would read the metadata of all items
            folder = _absolute(self._directory) / str(step) / item
            self._check_shapes(step, saved=ArraysHandler().metadata(folder).tree, wanted=tree)
        arguments = {item: ArraysRestore(tree) for item, tree in abstract.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**arguments))

    def _set_aside(self, step: int) -> None:
        """Makes room for another checkpoint of this step. Until that is there a restart uses this one."""
        self._digests.wait()  # they are not those of another folder with this name
        self._manager.close()
        from_process_0(lambda: set_aside(self._workdir, step, folder=REPLACED))
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        """Orbax's manager. It lists the folder in each process, and its barriers follow from the list."""
        if jax.process_count() > 1:
            self._wait_for_what_process_0_sees()
        better = 1 if self._spec.best.higher_is_better else -1

        def rank(metrics: dict[str, float]) -> Any:
            """The higher, the better; of equals the first."""
            return better * metrics["value"], -metrics["step"]

        options = ocp.CheckpointManagerOptions(
            best_fn=rank,
            preservation_policy=_preservation_policy(self._spec.config.checkpoint, rank),
            cleanup_tmp_directories=not self._read_only,
            read_only=self._read_only,
            async_options=ocp.AsyncOptions(timeout_secs=600, post_finalization_callback=self._write_sizes),
        )
        return ocp.CheckpointManager(
            _absolute(self._directory),
            options=options,
            item_handlers={
                PARAMS: ArraysHandler(),
                OPTIMIZER: ArraysHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
        )

    def _wait_for_what_process_0_sees(self) -> None:
        def make_and_list() -> list[int]:
            if self._read_only:  # of a run that may be training
                return [self._newest] if self._newest >= 0 else []
            self._directory.mkdir(parents=True, exist_ok=True)
            return steps_of(self._workdir)

        def is_seen() -> bool:
            here = steps_of(self._workdir)
            return set(steps) <= set(here) if self._read_only else self._directory.exists() and here == steps

        steps = from_process_0(make_and_list)
        here = steps if wait_until_visible(is_seen) else steps_of(self._workdir)
        assert_processes_agree({f"the list of checkpoints in {self._directory}": str(here)})

    def _write_sizes(self) -> None:
        """Called by Orbax when all files are there, before it commits them."""
        unfinished = list(self._directory.glob(f"{self._being_written}.orbax-checkpoint-tmp*"))
        digests.write_sizes(unfinished[0] if unfinished else self._directory / str(self._being_written))

    @contextmanager
    def _tolerate_disk_errors(self) -> Iterator[None]:
        """A disk's refusal becomes a warning, until there are too many in a row."""
        try:
            with _disk_errors(self._directory):
                yield
        except OSError as error:
            self._failures += 1
            if self._failures > self._spec.config.checkpoint.max_save_failures or jax.process_count() > 1:
                raise  # of several processes, each would have to know
            log.warning("%s; trying again at the next one (%d)", error, self._failures)
            self._being_written, self._newest = None, self._before
            settle_replaced(self._workdir)
            self._manager = self._open()  # the old one would tell of this failure for ever

    def _check_run(self, step: int) -> Progress:
        """Whether the run can resume from this checkpoint; and its progress."""
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        where = f"the checkpoint of step {step} in {self._directory}"
        try:
            saved = spec_from_json(run["resolved"], config_from_json(run["config"]))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if changes := incompatible_changes(saved, self._spec, step=step):
            raise UserError(f"{where} is of another run: {changes[0]}")
        if self._fingerprint is not None and run["fingerprint"] != self._fingerprint:
            if self._spec.config.task is not None:
                raise UserError(
                    f"{where} was trained on other examples than task.train and task.validation have now: "
                    "give the original ones, or a new --workdir"
                )
            raise UserError(
                f"{where} was trained on another dataset than "
                f"data.dir {self._spec.config.data.dir} (fingerprint {run['fingerprint'][:12]}, not "
                f"{self._fingerprint[:12]}): give the original --data.dir, or a new --workdir"
            )
        return Progress.from_json(run["progress"])

    def _check_shapes(self, step: int, *, saved: Any, wanted: Any) -> None:
        """Orbax can restore other shapes than asked for without a word, so compare first."""
        here, there = _described(wanted), _described(saved)
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise UserError(
                    f"the checkpoint of step {step} in {self._directory} does not fit the model: {name} is "
                    f"{there.get(name, 'missing')}, not {here.get(name, 'there')}"
                )


def _absolute(folder: epath.Path) -> epath.Path:
    return folder if url_of(folder) else epath.Path(os.path.abspath(folder))


def _items(state: TrainState) -> dict[str, Any]:
    """The arrays of a state, real or abstract, by the item that they are saved in."""
    return {PARAMS: state.params, OPTIMIZER: {"step": state.step, "opt_state": state.opt_state}}


def _preservation_policy(config: CheckpointConfig, rank: Any) -> checkpoint_managers.PreservationPolicy:
    """The latest, the best on the validation split, and those of every so many steps."""
    policies: list[checkpoint_managers.PreservationPolicy] = [
        checkpoint_managers.LatestN(config.keep),
        checkpoint_managers.BestN(
            get_metric_fn=rank, n=config.keep_best, keep_checkpoints_without_metrics=False
        ),
    ]
    if config.keep_every is not None:
        policies.append(checkpoint_managers.EveryNSteps(config.keep_every))
    return checkpoint_managers.AnyPreservationPolicy(policies)


@contextmanager
def _disk_errors(directory: epath.Path) -> Iterator[None]:
    """TensorStore reports a full disk as a ValueError with the system's error number in its text.

    What keeps it from writing to a bucket has no number, only a status: the network, or a permission.
    """
    try:
        yield
    except Exception as error:
        if reason := refusal(error):
            raise OSError(errno.EIO, f"a checkpoint cannot be written ({reason})", str(directory)) from error
        if not isinstance(error, ValueError):
            raise
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None and TENSORSTORE_STATUS.match(str(error)):
            reason = str(error).partition("\n")[0]
            raise OSError(errno.EIO, f"a checkpoint cannot be written ({reason})", str(directory)) from error
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, f"a checkpoint cannot be written: {os.strerror(code)}", str(directory)) from error


def _described(tree: Any) -> dict[str, str]:
    """Path -> `dtype[shape]` of each array, whether the tree's nodes are tuples or Orbax's dicts."""
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
