"""Checks and measures this machine's accelerator with a folder that `tests.device.pack` has made.

    python -m tests.device.run FOLDER --out DIR [--seconds 480] [--parts NAME ...] [--rehearse]

prints a line of JSON for each result as soon as it is there, and writes them to DIR/results.jsonl. Needs no
TensorFlow and no network. Parts run one after the other, what says most first, each in a process of its own:

  machine      card and versions
  kernels      each attention kernel against float32 on a CPU: output and gradients
  steps        the losses of twenty training steps against a CPU's
  speed: CASE  step time, MFU, memory, beside Transformers under torch.compile on the same batches, in turns
  resume       a run that is killed and started again ends with the bits of one that was not
  pretraining  a small BERT for three minutes: its loss

A part that fails is a line with its error, and the next one begins. What there is no time for is said.
Without an accelerator this is a rehearsal: all of it with tiny models, which measures nothing.

Exit status: 0; 1 if something failed; 2 if it was called wrongly.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.device.cases import SPEED
from tests.device.result import NO_TIME, Result, as_line


class Part(NamedTuple):
    name: str
    least: float
    """Seconds that it takes at least: with fewer left it is not begun."""


PARTS = (
    Part("kernels", 30),
    Part("steps", 20),
    *(Part(f"speed: {case.name}", 60) for case in SPEED[:2]),
    Part("resume", 50),
    Part("pretraining", 60),
    *(Part(f"speed: {case.name}", 60) for case in SPEED[2:]),
)
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # PyTorch wants memory of the same device
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def run(name: str, folder: Path, out: Path, *, seconds: float, rehearse: bool) -> Iterator[Result]:
    """The results of a part; at the end of its time it is killed, with all its processes."""
    command = [sys.executable, "-m", "tests.device.part", name, str(folder), str(out), str(seconds)]
    bare = {"BARE_MACHINE": "1"} if rehearse else {}
    paths = [str(folder / "packages"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = ENVIRONMENT | os.environ | bare | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    log_file = out / f"{name.replace(':', '').replace(' ', '-')}.log"
    late = threading.Event()
    part, _, case = name.partition(": ")
    with open(log_file, "w") as log:
        process = subprocess.Popen(
            [*command, *(["--rehearse"] if rehearse else [])],
            stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True,
        )  # fmt: skip

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    found = json.loads(line)
                except ValueError:
                    log.write(line)  # of a library
                else:
                    yield {"part": part} | found
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                stop()
                process.wait()
    if late.is_set():
        yield {"part": part, "what": case or "the rest", "ok": None, "not run": NO_TIME}
    elif process.returncode != 0:
        last = [line.strip() for line in log_file.read_text().splitlines() if line.strip()][-4:]
        error = " | ".join(last)[-600:]
        what = case or f"status {process.returncode}"
        yield {"part": part, "what": what, "ok": False, "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--seconds", type=float, default=480, help="for all of it")
    parser.add_argument("--parts", nargs="+", default=[""], help="those whose names begin so; else all")
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny models, without what this machine has more"
    )
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    folder, out, rehearse = arguments.folder.absolute(), arguments.out.absolute(), arguments.rehearse
    if not (folder / "facts.json").is_file():
        parser.error(f"{arguments.folder} is no folder that `python -m tests.device.pack` has made")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        parser.error(f"{arguments.out} is a file, or not empty; give a new folder")
    for name in arguments.parts:
        if not any(part.name.startswith(name) for part in PARTS):
            known = ", ".join(f'"{part.name}"' for part in PARTS)
            parser.error(f"no part begins with {name!r}; there are {known}")
    # Its parts are in sessions of their own, and end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    out.mkdir(parents=True, exist_ok=True)
    failed = False
    with open(out / "results.jsonl", "w") as file:

        def tell(result: Result) -> None:
            nonlocal failed
            failed |= result["ok"] is False
            line = as_line(result)
            file.write(line + "\n")
            file.flush()
            print(line, flush=True)

        for result in run("machine", folder, out, seconds=end - time.monotonic(), rehearse=rehearse):
            if result.get("platform") == "cpu" and not rehearse:
                print("there is no accelerator here: this is a rehearsal with tiny models", flush=True)
                rehearse = True
            tell(result | {"rehearsal": rehearse})
        for part in PARTS:
            if not part.name.startswith(tuple(arguments.parts)):
                continue
            left = end - time.monotonic()
            if left < (5 if rehearse else part.least):
                kind, _, case = part.name.partition(": ")
                tell({"part": kind, "what": case or "all", "ok": None, "not run": NO_TIME})
                continue
            start = time.monotonic()
            for result in run(part.name, folder, out, seconds=left, rehearse=rehearse):
                tell(result | {"s": time.monotonic() - start})
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
