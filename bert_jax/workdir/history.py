"""What happened to a run: `history.jsonl` in its workdir, an object a line, only ever longer.

A log for people: nothing is decided by reading it.

Each has `event`, `time` (UTC) and, by event:
  start     where it resumes, versions, machines, and what the config changed since the last start
  skipped   a step whose loss or gradient was not finite: its records, and no update
  rollback  a spike of the loss `at` a step: back `to` a checkpoint, and how many rows are `skipped_rows`
  damaged   a checkpoint that was set aside, and why
  end       the last step of this process, how it ended, and where its seconds went
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import jax

from bert_jax.workdir.log_file import LogFile
from data_pipeline.errors import UserError

FILE = "history.jsonl"
FIELDS = {
    "start": ("step", "versions", "revision", "device", "processes"),
    "skipped": ("step", "records"),
    "rollback": ("at", "to"),
    "damaged": ("step",),
    "end": ("step", "seconds"),
}
"""Fields that an entry has at least, by event."""


class History:
    """The history of one workdir, which process 0 writes."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE
        self._file: LogFile | None = None

    def events(self, event: str) -> list[dict[str, Any]]:
        """The entries of one kind, oldest first. A line that a killed process left half-written is none.

        Raises:
          UserError: a line is not of a history; names it.
        """
        found = []
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if entry["event"] == event:
                    found.append({name: entry[name] for name in FIELDS[event]} | entry)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self._path}:{number} is not a line of a history ({error}); mend or remove it"
                ) from error
        return found

    def add(self, event: str, **fields: Any) -> None:
        if jax.process_index() != 0:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._file = self._file or LogFile(self._path)
        self._file.write(json.dumps({"event": event, "time": now} | fields).encode() + b"\n")
