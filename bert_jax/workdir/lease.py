"""Who owns a workdir: one run at a time, by a lease that its owner renews as long as it lives.

`owner.json` in the workdir says who, and counts renewals. Whoever starts and finds another owner there

- is refused at once if that is a process of this machine that lives,
- takes over at once if it is one that is gone, or an earlier start of the same job, which its launcher ended,
- and otherwise waits to see whether the lease is renewed. Clocks of two machines are never compared.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax

from bert_jax.parallel.exit_status import USER_ERROR
from bert_jax.parallel.processes import from_process_0
from bert_jax.workdir.bucket import refresh, root_of, upload_logs
from data_pipeline.errors import UserError
from data_pipeline.storage import refusal, replace_text, url_of

log = logging.getLogger(__name__)

FILE = "owner.json"
RENEWAL_SECONDS = 5.0
LEASE_SECONDS = 30.0
"""An owner that has not renewed its lease for as long is gone. No restart waits longer for it."""
JOBS = {"BERT_JAX_JOB": "BERT_JAX_ATTEMPT", "SLURM_JOB_ID": "SLURM_RESTART_COUNT"}
"""Environment variables that name the job of a launcher, and those that count its restarts."""
SETTLED_SECONDS = 0.2
"""After which another one that starts at the same moment has claimed it too; in a bucket five times that."""


class Lease:
    """While entered, this run and no other trains in a workdir. Process 0 of the run keeps the file.

    An owner that finds another one in its place, after a pause that was longer than its lease, ends its
    process with status 2: two runs would write the same files.
    """

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._file = root_of(workdir) / FILE
        self._left = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewals = 0
        self._me = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "machine": _machine(),
            "born": _born(os.getpid()),
            **_job(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def __enter__(self) -> Lease:
        """Raises UserError, on all processes, if another run is training in the workdir."""
        from_process_0(self._take)
        refresh(self._workdir)
        if jax.process_index() == 0:
            self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()
            if self._is_mine():
                upload_logs(self._workdir)  # whoever is next reads them
                self._file.unlink(missing_ok=True)

    def _take(self) -> None:
        owner = self._read()
        if owner is not None and self._me["machine"] and owner.get("machine") == self._me["machine"]:
            if _born(owner.get("process")) == owner.get("born"):
                raise UserError(self._refusal(owner))
        elif owner is not None and not self._is_restart_of(owner):
            self._wait_for(owner)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        time.sleep(SETTLED_SECONDS * (5 if url_of(self._file) else 1))
        if not self._is_mine():
            raise UserError(self._refusal(self._read() or {}))

    def _is_restart_of(self, owner: dict[str, Any]) -> bool:
        """Two starts of a job that are not a restart of each other may be there at once."""
        same = self._me["job"] is not None and owner.get("job") == self._me["job"]
        return same and owner.get("attempt", 0) < self._me["attempt"]

    def _wait_for(self, owner: dict[str, Any]) -> None:
        log.warning(
            "%s was left by process %s of %s, or is still trained in: waiting for up to %g s to see",
            self._file.parent, owner.get("process"), owner.get("host"), LEASE_SECONDS,
        )  # fmt: skip
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, LEASE_SECONDS / 10))
            now = self._read()
            if now is None:  # it has ended
                return
            if now and now != owner:
                raise UserError(self._refusal(owner | now))

    def _refusal(self, owner: dict[str, Any]) -> str:
        return (
            f"another run trains in {self._file.parent}: process {owner.get('process')} of "
            f"{owner.get('host')}, since {owner.get('since')}; end it, or use a new --workdir"
        )

    def _keep(self) -> None:
        while not self._left.wait(RENEWAL_SECONDS):
            if not self._is_mine():
                print(
                    f"bert-jax: {self._file.parent} was taken over by another run while this one stood still",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(USER_ERROR)
            self._write()

    def _is_mine(self) -> bool:
        """Also where the file is gone: nobody else has it."""
        return (self._read() or self._me).get("id") == self._me["id"]

    def _read(self) -> dict[str, Any] | None:
        """The owner; None if there is none."""
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        except Exception as error:  # just being written; or a store's, which has no kind of its own
            if not isinstance(error, OSError | ValueError) and refusal(error) is None:
                raise
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        self._renewals += 1
        content = json.dumps(self._me | {"renewals": self._renewals}, indent=1)
        try:
            replace_text(self._file, content)
        except Exception as error:
            if self._renewals == 1 or not (isinstance(error, OSError) or refusal(error)):
                raise
            log.warning("%s cannot be renewed (%s)", self._file, refusal(error) or error)


def _job() -> dict[str, Any]:
    """The launcher's job that this process is of, and how often that was started again."""
    for name, restarts in JOBS.items():
        if os.environ.get(name):
            return {"job": os.environ[name], "attempt": int(os.environ.get(restarts) or 0)}
    return {"job": None, "attempt": 0}


def _machine() -> str | None:
    """Names a machine since it was started, and its view of processes: a container may have its own.

    None where it cannot be told: where there is no Linux.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(process: int | None) -> str | None:
    """When a process of this machine was started, in ticks since that was; None if there is no such process.

    A number of a process is used again; a number and a birth are not.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(") ")[2].split()
    return None if fields[0] == "Z" else fields[19]
