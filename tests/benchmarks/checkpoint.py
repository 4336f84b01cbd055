"""How long a checkpoint of BERT-large takes to save, to verify, to restart from, to export: Markdown.

    python -m tests.benchmarks.checkpoint FOLDER

Each phase is a process of its own, whose peak of memory is its. FOLDER, on the disk to be measured, is
left empty; 4 GB are written to it. No dataset is needed, but a tokenizer in runs/, as `make demo` leaves it.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("save", "restart", "export")


def run_phase(phase: str, workdir: Path) -> None:
    """Prints a line of the table for each thing that it times."""
    import jax

    from bert_jax.config import load_recipe
    from bert_jax.interop.export import export
    from bert_jax.parallel import sharding
    from bert_jax.training.step import jit_init_state
    from bert_jax.workdir import run_files
    from bert_jax.workdir.checkpoint import Checkpoints
    from bert_jax.workdir.progress import Progress
    from tests.helpers.configs import spec_of

    def noise(x: jax.Array) -> jax.Array:
        """Zeros would be compressed to nothing."""
        return jax.random.normal(jax.random.key(x.size), x.shape, x.dtype) if x.ndim else x

    spec = spec_of(load_recipe(str(ROOT / "configs" / "bert_large.py")))
    mesh = sharding.make_mesh(spec.config.mesh)
    lap = Lap()
    if phase == "save":
        state = jit_init_state(spec, mesh)()
        state = state._replace(opt_state=jax.tree.map(noise, state.opt_state))
        workdir.mkdir(parents=True)
        run_files.write(spec, workdir)
        shutil.copytree(next(ROOT.glob("runs/*/tokenizer")), workdir / "tokenizer")
        with Checkpoints(workdir, spec) as checkpoints:
            lap.start()
            checkpoints.save(1, state, Progress())
            lap.end("until training goes on")
            checkpoints.poll_save(wait=True)
            lap.end("until it is committed")
            if hasattr(checkpoints, "wait"):
                checkpoints.wait()
                lap.end("until its digests are there")
    elif phase == "restart":
        lap.start()
        with Checkpoints(workdir, spec) as checkpoints:
            lap.end("verify before a restart")
            checkpoints.restore(mesh)
            lap.end("restore")
    else:
        lap.start()
        export(workdir, out=workdir / "exported")
        lap.end("export")


class Lap:
    def start(self) -> None:
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        seconds = time.perf_counter() - self._since
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {name} | {seconds:.1f} | {peak:.1f} |", flush=True)
        self.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--phase", choices=PHASES, help="one of them, in this process")
    arguments = parser.parse_args()
    workdir = arguments.folder / "bert-large"
    if arguments.phase:
        run_phase(arguments.phase, workdir)
        return
    print(
        "| what | seconds | GiB of memory at most, so far in its process |\n| --- | --- | --- |", flush=True
    )
    try:
        for phase in PHASES:
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.checkpoint",
                str(arguments.folder),
                "--phase",
                phase,
            ]
            subprocess.run(command, check=True, cwd=ROOT)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)


if __name__ == "__main__":
    main()
