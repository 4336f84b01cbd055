"""Checkpoints of a run: the state, and what it may be restored into. Orbax, asynchronous."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from bert_jax.config import Config, differences, from_json, to_json
from bert_jax.step import TrainState, abstract_state


def check_has_run(workdir: Path) -> None:
    """Raises FileNotFoundError unless `workdir` holds a run with checkpoints."""
    if not (workdir / "config.json").is_file() or not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"{workdir} holds no run with a checkpoint")


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits for the last write.

    Args:
      workdir: checkpoints are in `workdir/checkpoints`.
      config: of the run; saved along, and compared before a restore.
      fingerprint: of the dataset, likewise; None where no dataset is at hand (export).
      read_only: leaves everything as it is, for a look beside a run that goes on. Otherwise what a killed run
        left half-written is removed.
    """

    def __init__(
        self, workdir: Path, config: Config, *, fingerprint: str | None = None, read_only: bool = False
    ):
        self._config = config
        self._fingerprint = fingerprint
        self._directory = workdir / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(config.checkpoint.keep),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            self._directory.absolute(),
            options=options,
            item_handlers={"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()},
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        with _disk_errors(self._directory):
            self._manager.close()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write a checkpoint; returns once the state is copied from the devices.

        Raises:
          OSError: this checkpoint, or the one before it, cannot be written.
        """
        if step == self.latest_step():
            return
        run = {"config": to_json(self._config), "fingerprint": self._fingerprint}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        # The training loop forbids copies that nobody asked for; this one is asked for.
        with jax.transfer_guard("allow"), _disk_errors(self._directory):
            self._manager.save(step, args=items)

    def restore(self, mesh: Mesh, *, step: int | None = None) -> TrainState:
        """The state of `step`, or of the latest one, laid out on `mesh`.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: it is of another config, dataset or shape; names what differs.
        """
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            have = ", ".join(map(str, self._manager.all_steps())) or "none"
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise FileNotFoundError(f"{self._directory} has no {wanted} (there: {have})")
        self._check_run(step)
        abstract = abstract_state(self._config, mesh)
        self._check_shapes(step, abstract)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored.state

    def _check_run(self, step: int) -> None:
        run = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        odd = differences(from_json(run["config"]), self._config)
        if odd:
            raise ValueError(
                f"the checkpoint of step {step} in {self._directory} is of another run: {odd[0]}"
            )
        if self._fingerprint is not None and run["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"the checkpoint of step {step} in {self._directory} was trained on another dataset than "
                f"data.dir {self._config.data.dir} (fingerprint {run['fingerprint'][:12]}, not "
                f"{self._fingerprint[:12]}): give the original --data.dir, or a new --workdir"
            )

    def _check_shapes(self, step: int, abstract: TrainState) -> None:
        """Orbax can restore other shapes than asked for without a word, so compare first."""
        saved = _described(self._manager.item_metadata(step).state)
        wanted = _described(abstract)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise ValueError(
                    f"the checkpoint of step {step} in {self._directory} does not fit the model: {name} is "
                    f"{saved.get(name, 'missing')}, not {wanted.get(name, 'there')}"
                )


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
