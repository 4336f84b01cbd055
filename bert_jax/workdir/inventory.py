"""Which checkpoints a workdir has: their steps, which is best, which are damaged. Reads files, not arrays."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from bert_jax.config import Config
from bert_jax.objectives.objective import Metric
from bert_jax.workdir import digests
from bert_jax.workdir.bucket import root_of
from bert_jax.workdir.history import History
from bert_jax.workdir.run_files import CONFIG_FILE, load_spec
from data_pipeline.storage import objects_in, store, url_of

log = logging.getLogger(__name__)

DAMAGED, REPLACED = "damaged", "replaced"
"""Folders of a workdir for checkpoints that are set aside: damaged ones, and one that is saved again."""

COMMITTED = "commit_success.txt"
"""Orbax writes it last."""


def checkpoints_of(workdir: Path) -> epath.Path:
    """The folder of the checkpoints of a workdir, which may be in a bucket."""
    return root_of(workdir) / "checkpoints"


def steps_of(workdir: Path) -> list[int]:
    """The steps of the checkpoints of a workdir, good and bad, newest first.

    In a bucket, where nothing is renamed, one that is being written is none yet.
    """
    folder = checkpoints_of(workdir)
    if not folder.exists():
        return []
    steps = sorted((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True)
    if url_of(folder):
        return [step for step in steps if (folder / str(step) / COMMITTED).exists()]
    return steps


def check_has_run(workdir: Path) -> None:
    """Raises FileNotFoundError unless `workdir` holds a run with checkpoints."""
    if not (workdir / CONFIG_FILE).is_file() or not steps_of(workdir):
        raise FileNotFoundError(f"{workdir} holds no run with a checkpoint")


def damage(workdir: Path, step: int) -> str | None:
    """What is wrong with the files of a checkpoint; None if nothing is."""
    folder = checkpoints_of(workdir) / str(step)
    if not (folder / COMMITTED).is_file():
        return f"{COMMITTED} is missing"
    return digests.verify(folder)


def newest_good_step(workdir: Path, *, quarantine: bool) -> int:
    """The step of the newest checkpoint that is not damaged, -1 if there is none.

    Args:
      quarantine: set the damaged ones that are newer aside, to `workdir/damaged`.
    """
    if quarantine:
        settle_replaced(workdir)
    for step in steps_of(workdir):
        wrong = damage(workdir, step)
        folder = checkpoints_of(workdir) / str(step)
        if wrong is None:
            if not digests.have_digests(folder):
                log.info("the checkpoint of step %d has no digests: its sizes are right", step)
            return step
        log.warning("the checkpoint of step %d in %s is damaged: %s", step, folder.parent, wrong)
        if quarantine:
            set_aside(workdir, step, folder=DAMAGED)
            History(workdir).add("damaged", step=step, why=wrong)
    return -1


def set_aside(workdir: Path, step: int, *, folder: str) -> None:
    """Moves a checkpoint to a folder of the workdir, in place of one of this step that is there."""
    aside = root_of(workdir) / folder / str(step)
    if aside.exists():
        aside.rmtree()
    _move(checkpoints_of(workdir) / str(step), aside)


def settle_replaced(workdir: Path) -> None:
    """Deletes checkpoints for which there is another one of their step; moves the others back."""
    folder = root_of(workdir) / REPLACED
    for aside in folder.iterdir() if folder.exists() else ():
        if int(aside.name) in steps_of(workdir):
            aside.rmtree()
            continue
        target = checkpoints_of(workdir) / aside.name
        if target.exists():  # in a bucket: what a killed run had written of the other one
            target.rmtree()
        _move(aside, target)


def _move(folder: epath.Path, target: epath.Path) -> None:
    """Renames a folder; in a bucket copies its objects and deletes them, the commit last and then first."""
    if not url_of(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        return
    files, root = store(folder)
    names = sorted(objects_in(folder), key=lambda name: name == COMMITTED)
    for name in names:
        files.cp_file(f"{root}/{name}", f"{store(target)[1]}/{name}")
    for name in reversed(names):
        files.rm_file(f"{root}/{name}")


def validation_metrics(workdir: Path, step: int) -> dict[str, float] | None:
    """What the evaluation of a checkpoint's step found; None if it was saved without one, or is damaged."""
    try:
        saved = json.loads((checkpoints_of(workdir) / str(step) / "metrics" / "metrics").read_bytes())
        return {name: float(value) for name, value in saved["validation"].items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None  # `damage` tells what is wrong with it


def validation_value(workdir: Path, step: int, *, metric: str) -> float | None:
    """One of them."""
    return (validation_metrics(workdir, step) or {}).get(metric)


def best_step(workdir: Path, *, metric: Metric) -> int | None:
    """The checkpoint with the best value, the first of equals; None if none has one."""
    values = {step: validation_value(workdir, step, metric=metric.name) for step in steps_of(workdir)}
    sign = 1 if metric.higher_is_better else -1
    known = {step: sign * value for step, value in values.items() if value is not None}
    return max(known, key=lambda step: (known[step], -step), default=None)


def step_to_use(workdir: Path, config: Config) -> int | None:
    """The best checkpoint of a fine-tuning; None, which is the latest, of a pretraining."""
    if config.task is None:
        return None
    return best_step(workdir, metric=load_spec(workdir).best)


def listing(workdir: Path) -> Iterator[tuple[str, str | None]]:
    """A line about each checkpoint, oldest first, and what is wrong with it, every byte read.

    Raises:
      FileNotFoundError: there is none.
    """
    check_has_run(workdir)
    best = load_spec(workdir).best.name
    for step in reversed(steps_of(workdir)):
        folder = checkpoints_of(workdir) / str(step)
        size = digests.total_size(folder)
        commit = (folder / COMMITTED) if (folder / COMMITTED).exists() else folder
        written = datetime.datetime.fromtimestamp(commit.stat().mtime).isoformat(" ", timespec="seconds")
        found = validation_value(workdir, step, metric=best)
        value = "" if found is None else f"validation {best} {found:.4f}"
        wrong = damage(workdir, step)
        verified = wrong is not None or digests.have_digests(folder)
        note = "" if verified else "  no digests: its sizes are right, its bytes were not compared"
        yield f"step {step:9,d}  {size / 2**20:10,.1f} MiB  {written}  {value:22s}{note}", wrong
