"""Who owns a workdir: one run at a time, by a lease that its owner renews as long as it lives.

`owner.json` in the workdir says who, and counts renewals. Whoever starts and finds another owner there

- is refused at once if that is a process of this machine that lives,
- takes over at once if it is one that is gone, or of the same job of a launcher, which has ended it,
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
from bert_jax.workdir.bucket import root_of
from data_pipeline.errors import UserError
from data_pipeline.storage import replace_text

log = logging.getLogger(__name__)

FILE = "owner.json"
RENEWAL_SECONDS = 5.0
LEASE_SECONDS = 30.0
"""An owner that has not renewed its lease for as long is gone. No restart waits longer for it."""
JOB_VARIABLES = ("BERT_JAX_JOB", "SLURM_JOB_ID")
"""Environment variables that name the job of a launcher, the same after each of its restarts."""


class Lease:
    """While entered, this run and no other trains in a workdir. Process 0 of the run keeps the file.

    An owner that finds another one in its place, after a pause that was longer than its lease, ends its
    process with status 2: two runs would write the same files.
    """

    def __init__(self, workdir: Path):
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
            "job": next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), None),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def __enter__(self) -> Lease:
        """Raises UserError, on all processes, if another run is training in the workdir."""
        from_process_0(self._take)
        if jax.process_index() == 0:
            self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        if self._thread is not None:
            self._thread.join()
            if self._is_mine():
                self._file.unlink(missing_ok=True)

    def _take(self) -> None:
        owner = self._read()
        if owner is not None and self._me["machine"] and owner.get("machine") == self._me["machine"]:
            if _born(owner.get("process")) == owner.get("born"):
                raise UserError(self._refusal(owner))
        elif owner is not None and (owner.get("job") is None or owner.get("job") != self._me["job"]):
            self._wait_for(owner)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._write()

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
            if now != owner:
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
        except (OSError, ValueError):  # just being written
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        self._renewals += 1
        content = json.dumps(self._me | {"renewals": self._renewals}, indent=1)
        try:
            replace_text(self._file, content)
        except OSError as error:
            if self._renewals == 1:
                raise
            log.warning("%s cannot be renewed (%s)", self._file, error.strerror or error)


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
