"""One run in N processes of this machine, each with CPU devices of its own: a pod, rehearsed on a laptop.

    python launch/local.py 2 -- configs/demo.py --workdir runs/demo

is `bert-jax pretrain configs/demo.py --workdir runs/demo` in two processes. What they print is shown with the
number of the process before it, and is in WORKDIR.logs/process-N.log. Ctrl-C and SIGTERM are passed on: all
save and leave. One that fails ends all.

Exit status: that of the processes, 75 where they were stopped; of several, that of the first one to fail.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

INTERRUPTED = 75
GRACE = 20
"""Seconds that the others have to leave, once one has failed."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="python launch/local.py N [--devices D] -- CONFIG --workdir DIR [--flags]",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument("processes", type=int, metavar="N")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process (default: 1)")
    parser.add_argument("command", nargs="+", help="as after `bert-jax pretrain`")
    given = parser.parse_args(arguments)
    if given.processes < 1 or given.devices < 1:
        parser.error("N and --devices must be at least 1")
    if "--workdir" not in given.command[:-1]:
        parser.error("give the run's --workdir, after --")
    return given


def start(
    given: argparse.Namespace, *, logs: Path
) -> tuple[list[subprocess.Popen[str]], list[threading.Thread]]:
    """The processes, and what reads their output."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(given.devices),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(given.processes),
        "PYTHONUNBUFFERED": "1",
    }
    logs.mkdir(parents=True, exist_ok=True)
    processes, readers = [], []
    for index in range(given.processes):
        process = subprocess.Popen(
            [sys.executable, "-m", "bert_jax", "pretrain", *given.command],
            env=os.environ | shared | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a Ctrl-C on the terminal reaches this program alone, which passes it on
        )
        reader = threading.Thread(target=show, args=(process, index, logs / f"process-{index}.log"))
        reader.start()
        processes.append(process)
        readers.append(reader)
    return processes, readers


def show(process: subprocess.Popen[str], index: int, path: Path) -> None:
    """Each line of a process to its log, and with its number to the terminal."""
    assert process.stdout is not None
    with path.open("a") as log:
        for line in process.stdout:
            log.write(line)
            log.flush()
            print(f"[{index}] {line}", end="", flush=True)


def wait(processes: list[subprocess.Popen[str]]) -> int:
    """Until all have ended; the status of the run."""
    status, deadline = 0, float("inf")
    running = dict(enumerate(processes))
    while running:
        time.sleep(0.1)
        for index, process in list(running.items()):
            if (code := process.poll()) is None:
                continue
            del running[index]
            status = status or code
            if code not in (0, INTERRUPTED) and running and deadline == float("inf"):
                print(f"process {index} ended with status {code}; ending the others", file=sys.stderr)
                deadline = time.monotonic() + GRACE
                for other in running.values():
                    other.send_signal(signal.SIGTERM)
        if time.monotonic() > deadline:
            for other in running.values():
                other.kill()
    return status if status >= 0 else 128 - status  # a signal, as a shell tells it


def main() -> int:
    given = parse(sys.argv[1:])
    workdir = Path(given.command[given.command.index("--workdir") + 1])
    place = Path() if str(workdir).startswith("gs:") else workdir.parent  # of a bucket: here
    processes, readers = start(given, logs=place / f"{workdir.name}.logs")

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = wait(processes)
    for reader in readers:
        reader.join()
    return status


if __name__ == "__main__":
    sys.exit(main())
