"""What happened to a run: `history.jsonl` in its workdir, an object a line, only ever longer.

Each has `event`, `time` (UTC) and, by event:
  start     where it goes on from, versions, machines, and what the config changed since the last start
  skipped   a step whose loss or gradient was not finite: its records, and no update
  rollback  a spike of the loss `at` a step: back `to` a checkpoint, and `passed_over`, for all steps after it
  damaged   a checkpoint that was set aside, and why
  end       the last step of this process, how it ended, and where its seconds went
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import Config, differences, load_json

FILE = "history.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "tensorflow-cpu")


class History:
    """The history of one workdir. Every process reads it; process 0 writes."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE

    def events(self, event: str) -> list[dict[str, Any]]:
        """Those of one kind, oldest first. A line that a killed process left half-written is none."""
        if not self._path.exists():
            return []
        lines = self._path.read_text().splitlines(keepends=True)
        found = (json.loads(line) for line in lines if line.endswith("\n"))
        return [entry for entry in found if entry["event"] == event]

    def add(self, event: str, **fields: Any) -> None:
        if jax.process_index() != 0:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"event": event, "time": now} | fields)
        with self._path.open("ab") as file:
            whole = self._path.read_bytes().rfind(b"\n") + 1
            file.truncate(whole)  # without what a killed process left half-written
            file.write(line.encode() + b"\n")


def passed_over(rollbacks: list[dict[str, Any]], *, step: int) -> int:
    """Rows of the stream that the steps after `step` have left out, by the rollbacks of a run, oldest first.

    A function of its history: a run that goes on, or one that begins anew with a copy of the file, leaves out
    the same.
    """
    valid: list[dict[str, Any]] = []
    for rollback in rollbacks:  # a later one that went further back has undone those behind it
        valid = [*(entry for entry in valid if entry["to"] < rollback["to"]), rollback]
    return max((entry["passed_over"] for entry in valid if entry["to"] <= step), default=0)


def provenance(config: Config, *, workdir: Path) -> dict[str, Any]:
    """Of a start: what runs, on what, and how its config differs from the one the workdir was left with."""
    previous = workdir / "config.json"
    return {
        "revision": _revision(),
        "versions": _versions(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "changes": differences(load_json(previous), config, free=()) if previous.exists() else [],
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bert-jax", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # tensorflow has two names
    return found


def _revision() -> str | None:
    """Of the git work tree that this package is in, with + if it was changed since; None if it is in none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a slow disk
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")
