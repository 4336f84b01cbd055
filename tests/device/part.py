"""One part of the check, in a process of its own: a result a line on standard output.

python -m tests.device.part NAME FOLDER OUT SECONDS [--rehearse]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.device.result import Result, as_line


def results(name: str, folder: Path, out: Path, *, seconds: float, rehearse: bool) -> Iterator[Result]:
    """Each part imports what it needs: no process but its own has a device."""
    match name.partition(": ")[::2]:
        case "machine", "":
            from tests.device import machine

            return machine.describe()
        case "kernels", "":
            from tests.device import kernels

            return kernels.check(folder)
        case "steps", "":
            from tests.device import steps

            return steps.check(folder)
        case "resume", "":
            from tests.device import pretraining

            return pretraining.check_resume(folder, out=out, rehearse=rehearse)
        case "pretraining", "":
            from tests.device import pretraining

            return pretraining.check_pretraining(folder, out=out, rehearse=rehearse, seconds=seconds)
        case "speed", wanted:
            from tests.device import speed
            from tests.device.cases import SPEED

            (case,) = [case for case in SPEED if case.name == wanted]
            return speed.measure(case, folder=folder, rehearse=rehearse, seconds=seconds)
    raise ValueError(f"there is no part {name!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    if not arguments.name.startswith("speed"):  # that one has no device: its sides have
        from bert_jax.parallel import runtime

        runtime.configure(cache=Path("runs/compiled"))  # as `bert-jax pretrain` does
    for result in results(
        arguments.name, arguments.folder, arguments.out,
        seconds=arguments.seconds, rehearse=arguments.rehearse,
    ):  # fmt: skip
        sys.stdout.write(as_line(result) + "\n")  # in one piece, also where others write to it
        sys.stdout.flush()


if __name__ == "__main__":
    main()
