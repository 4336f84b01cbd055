"""Checkpoints of a run: the state, and what it may be restored into. Orbax, asynchronous, with digests.

A checkpoint counts once Orbax has committed it, by renaming its folder; its digests are written just before.
Damaged ones are set aside, in `workdir/damaged`, and the newest good one is used.
"""

from __future__ import annotations

import datetime
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from bert_jax.config import CheckpointConfig, Config, MeshConfig
from bert_jax.config.files import from_json, load_json, to_json
from bert_jax.parallel import sharding
from bert_jax.parallel.processes import same_everywhere
from bert_jax.training.step import TrainState, abstract_state
from bert_jax.workdir import digests
from bert_jax.workdir.history import History
from bert_jax.workdir.metrics_file import validation_values
from bert_jax.workdir.resume import obstacles
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

COMMITTED = "commit_success.txt"
"""Orbax writes it last."""


class Progress(NamedTuple):
    """What a run knows of itself beside its state; saved with it."""

    losses: tuple[float, ...] = ()
    """Of the last steps, as `Sentinel` wants them again."""
    tokens: int = 0
    """Seen by its steps, without padding."""
    seconds: float = 0.0
    """That its processes ran, one after the other; what a kill has lost is not in it."""


FRESH = Progress()
"""Of a run before its first step."""


def check_has_run(workdir: Path) -> None:
    """Raises FileNotFoundError unless `workdir` holds a run with checkpoints."""
    if not (workdir / "config.json").is_file() or not steps_of(workdir):
        raise FileNotFoundError(f"{workdir} holds no run with a checkpoint")


def steps_of(workdir: Path) -> list[int]:
    """Of the checkpoints of a workdir, good and bad, newest first."""
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def best_step(workdir: Path, config: Config) -> int | None:
    """Of the checkpoints that are there, the one with the best `checkpoint.best`; None if none has one."""
    values = validation_values(workdir / "metrics.jsonl", config.checkpoint.best)
    return best_of({s: values[s] for s in steps_of(workdir) if s in values}, config.checkpoint)


def step_to_use(workdir: Path, config: Config) -> int | None:
    """Of a fine-tuning the best checkpoint; None, which is the latest, of a pretraining."""
    return None if config.model.head == "pretraining" else best_step(workdir, config)


def best_of(values: dict[int, float], config: CheckpointConfig) -> int | None:
    """The step with the best value of `checkpoint.best`, the first of equals; None if there is no step."""
    return min(values, key=lambda step: (_rank(config, values[step]), step), default=None)


def damage(workdir: Path, step: int) -> str | None:
    """What is wrong with the files of a checkpoint; None if nothing is."""
    folder = workdir / "checkpoints" / str(step)
    if not (folder / COMMITTED).is_file():
        return f"{COMMITTED} is missing"
    return digests.damage(folder)


def listing(workdir: Path) -> Iterator[tuple[str, str | None]]:
    """Of each checkpoint, oldest first: a line on it, and what is wrong with it, every byte read.

    Raises:
      FileNotFoundError: there is none.
    """
    check_has_run(workdir)
    best = load_json(workdir / "config.json").checkpoint.best
    values = validation_values(workdir / "metrics.jsonl", best)
    for step in reversed(steps_of(workdir)):
        folder = workdir / "checkpoints" / str(step)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        written = datetime.datetime.fromtimestamp(folder.stat().st_mtime).isoformat(" ", timespec="seconds")
        value = f"validation {best} {values[step]:.4f}" if step in values else ""
        yield f"step {step:9,d}  {size / 2**20:10,.1f} MiB  {written}  {value:22s}", damage(workdir, step)


def read_state(workdir: Path, config: Config, *, step: int | None = None) -> TrainState:
    """On one device, beside a run that goes on; `step` and what is raised as in `Checkpoints.restore`."""
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices()[:1])
    with Checkpoints(workdir, config, read_only=True) as checkpoints:
        return checkpoints.restore(mesh, step=step)[0]


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits for the last write.

    Args:
      workdir: checkpoints are in `workdir/checkpoints`.
      config: of the run; saved along, and compared before a restore.
      fingerprint: of the dataset, likewise; None where no dataset is at hand (export).
      read_only: leaves everything as it is, for a look beside a run that goes on. Otherwise damaged ones are
        set aside, and what a killed run left half-written is removed.
    """

    def __init__(
        self, workdir: Path, config: Config, *, fingerprint: str | None = None, read_only: bool = False
    ):
        self._config = config
        self._fingerprint = fingerprint
        self._workdir = workdir
        self._directory = workdir / "checkpoints"
        self._read_only = read_only
        self._ranks: dict[int, float] = {}
        self._failures = 0
        self._being_written: int | None = None
        self._newest = same_everywhere(self._find_newest_good() if jax.process_index() == 0 else 0)
        self._manager = self._open()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._read_only:
            self.settle(wait=True)
            if self._failures:
                raise OSError(f"{self._directory}: the last checkpoint could not be written")
        with _disk_errors(self._directory):
            self._manager.close()

    def latest_step(self) -> int | None:
        """Of the newest good checkpoint, or of the one that is being written; None if there is none."""
        return None if self._newest < 0 else self._newest

    def note(self, step: int, value: float) -> None:
        """The validation metric `checkpoint.best` of a step: its checkpoint stays if it is among the best."""
        self._ranks[step] = _rank(self._config.checkpoint, value)

    def save(self, step: int, state: TrainState, progress: Progress = FRESH) -> None:
        """Starts to write a checkpoint; returns once the state is copied from the devices.

        A disk that refuses it is told of; the next one is tried.

        Raises:
          OSError: more than `checkpoint.failures` in a row failed.
        """
        self.settle(wait=True)
        if step == self._newest:
            return
        run = {
            "config": to_json(self._config),
            "fingerprint": self._fingerprint,
            "progress": progress._asdict(),
        }
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        self._being_written, self._before = step, self._newest
        self._newest = step
        # The training loop forbids copies that nobody asked for; this one is asked for.
        with jax.transfer_guard("allow"), self._tolerated():
            self._manager.save(step, args=items)

    def settle(self, *, wait: bool) -> None:
        """Takes note of how the last write ended, if it has; tells of a failure."""
        if self._being_written is None or (not wait and self._manager.is_saving_in_progress()):
            return
        with self._tolerated():
            self._manager.wait_until_finished()
            self._being_written, self._failures = None, 0

    def forget_after(self, step: int) -> int:
        """Deletes the checkpoints of later steps. Returns the newest step left, 0 if there is none."""
        self.settle(wait=True)
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)
        left = [earlier for earlier in self._manager.all_steps() if earlier <= step]
        self._newest = max(left, default=-1)
        return max(left, default=0)

    def restore(self, mesh: Mesh, *, step: int | None = None) -> tuple[TrainState, Progress]:
        """The state of `step`, or of the newest good one, laid out on `mesh`; and what was saved with it.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          UserError: it is damaged, or of another config, dataset or shape; names what differs.
        """
        if step is None:
            step = self.latest_step()
        elif step in steps_of(self._workdir) and (wrong := damage(self._workdir, step)):
            raise UserError(f"the checkpoint of step {step} in {self._directory} is damaged: {wrong}")
        if step is None or step not in self._manager.all_steps():
            have = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise FileNotFoundError(f"{self._directory} has no {wanted} (there: {have})")
        progress = self._check_run(step)
        abstract = abstract_state(self._config, mesh)
        self._check_shapes(step, abstract)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored.state, progress

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Kept(self._config.checkpoint, self._ranks),
            cleanup_tmp_directories=not self._read_only,
            read_only=self._read_only,
            async_options=ocp.AsyncOptions(timeout_secs=600, post_finalization_callback=self._write_digests),
        )
        return ocp.CheckpointManager(
            self._directory.absolute(),
            options=options,
            item_handlers={"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()},
        )

    def _find_newest_good(self) -> int:
        """Its step, -1 if there is none. Sets aside the damaged ones that are newer."""
        for step in steps_of(self._workdir):
            wrong = damage(self._workdir, step)
            if wrong is None:
                return step
            log.warning("the checkpoint of step %d in %s is damaged: %s", step, self._directory, wrong)
            if not self._read_only:
                aside = self._workdir / "damaged" / str(step)
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier accident
                aside.parent.mkdir(exist_ok=True)
                os.replace(self._directory / str(step), aside)
                History(self._workdir).add("damaged", step=step, why=wrong)
        return -1

    def _write_digests(self) -> None:
        """Called by Orbax when all files are there, before it commits them."""
        (folder,) = self._directory.glob(f"{self._being_written}.orbax-checkpoint-tmp*")
        digests.write(folder)

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        """A disk's refusal becomes a warning, until there are too many in a row."""
        try:
            with _disk_errors(self._directory):
                yield
        except OSError as error:
            self._failures += 1
            if self._failures > self._config.checkpoint.failures or jax.process_count() > 1:
                raise  # of several processes, each would have to know
            log.warning("%s; trying again at the next one (%d)", error, self._failures)
            self._being_written, self._newest = None, self._before
            self._manager = self._open()  # the old one would tell of this failure for ever

    def _check_run(self, step: int) -> Progress:
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        odd = obstacles(from_json(run["config"]), self._config, step=step)
        if odd:
            raise UserError(f"the checkpoint of step {step} in {self._directory} is of another run: {odd[0]}")
        if self._fingerprint is not None and run["fingerprint"] != self._fingerprint:
            raise UserError(
                f"the checkpoint of step {step} in {self._directory} was trained on another dataset than "
                f"data.dir {self._config.data.dir} (fingerprint {run['fingerprint'][:12]}, not "
                f"{self._fingerprint[:12]}): give the original --data.dir, or a new --workdir"
            )
        progress = run["progress"]
        losses = tuple(float(loss) for loss in progress["losses"])
        return Progress(losses, int(progress["tokens"]), float(progress["seconds"]))

    def _check_shapes(self, step: int, abstract: TrainState) -> None:
        """Orbax can restore other shapes than asked for without a word, so compare first."""
        saved = _described(self._manager.item_metadata(step).state)
        wanted = _described(abstract)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise UserError(
                    f"the checkpoint of step {step} in {self._directory} does not fit the model: {name} is "
                    f"{saved.get(name, 'missing')}, not {wanted.get(name, 'there')}"
                )


def _rank(config: CheckpointConfig, value: float) -> float:
    """The lower, the better."""
    if math.isnan(value):
        return math.inf
    return value if config.best.endswith("loss") else -value


class _Kept(checkpoint_managers.PreservationPolicy):
    """The latest, the best on the validation split, and those of every so many steps.

    Orbax asks when a new one is on its way, and deletes the others once that one is committed.
    """

    def __init__(self, config: CheckpointConfig, ranks: dict[int, float]):
        self._config, self._ranks = config, ranks

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(sorted(steps)[-self._config.keep :])
        known = sorted((self._ranks[step], step) for step in steps if step in self._ranks)
        kept |= {step for _, step in known[: self._config.keep_best]}
        every = self._config.keep_every
        return [step in kept or (every is not None and step % every == 0) for step in steps]


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """TensorStore reports a full disk as a ValueError with the system's error number in its text."""
    try:
        yield
    except ValueError as error:
        number = re.search(r"os_error_code='(\d+)'", str(error))
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
