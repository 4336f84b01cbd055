"""Runs as real processes, and what they leave behind."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from bert_jax.config import MeshConfig
from bert_jax.parallel import sharding
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.run_files import load_spec
from tests.helpers.paths import ROOT

SECONDS = 300
"""For a process to do what is waited for."""


def start(
    recipe: Path, workdir: Path | str, *flags: str, verb: str = "pretrain", **arguments: object
) -> subprocess.Popen:
    """`bert-jax VERB` on its way; arguments are Popen's."""
    command = [sys.executable, "-m", "bert_jax", verb, str(recipe), "--workdir", str(workdir), *flags]
    return subprocess.Popen(
        command,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT} | arguments,
    )


def start_several(
    recipe: Path,
    workdir: Path,
    *flags: str,
    processes: int,
    devices: int = 1,
    own_flags: Sequence[Sequence[str]] | None = None,
    environment: Mapping[str, str] = os.environ,
    verb: str = "pretrain",
) -> list[subprocess.Popen]:
    """One run in several processes, on loopback."""
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    return [
        start(
            recipe, workdir, *flags, *own,
            env={**environment} | shared | {"JAX_PROCESS_ID": str(index)}, verb=verb,
        )
        for index, own in enumerate(own_flags or [()] * processes)
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(process: subprocess.Popen, *, status: int = 0) -> str:
    """Waits for its end; returns what it printed."""
    output = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == status, output
    return output


def kill_often(recipe: Path, workdir: Path | str, *, kills: int, seed: int, **arguments: object) -> None:
    """SIGKILL at random moments, each in a process of its own; then to the end. Arguments are Popen's."""
    draw = random.Random(seed)
    for _ in range(kills):
        process = start(recipe, workdir, **arguments)
        next(line for line in process.stdout if "attention kernel" in line)  # from here on it trains
        time.sleep(draw.random() * 4)  # compiling, steps, evaluations and saves take as long from there
        process.kill()
        print("killed after", process.communicate()[0].strip().rpartition("\n")[2])
    finish(start(recipe, workdir, **arguments))


def wait_until(condition: Callable[[], bool], *processes: subprocess.Popen) -> None:
    """As long as the processes run."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, ended[0].communicate()[0]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def is_stopped(process: subprocess.Popen) -> bool:
    """Whether SIGSTOP has reached it."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def whole_lines(path: Path) -> list[str]:
    """Of a file that another process may be writing to."""
    return (
        [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.exists() else []
    )


def metrics(workdir: Path, split: str = "train") -> list[dict]:
    """Lines of metrics.jsonl, without what depends on the clock."""
    timed = {"tokens_per_second", "goodput", "hours"}
    return [
        {name: value for name, value in line.items() if name not in timed}
        for line in map(json.loads, whole_lines(workdir / "metrics.jsonl"))
        if line["split"] == split
    ]


def history(workdir: Path, event: str) -> list[dict]:
    lines = map(json.loads, whole_lines(workdir / "history.jsonl"))
    return [line for line in lines if line["event"] == event]


def state(workdir: Path, *, step: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, the last one if `step` is None: parameters, moments, step."""
    with Checkpoints(workdir, load_spec(workdir), read_only=True) as checkpoints:
        mesh = sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])
        restored, _ = checkpoints.restore(mesh, step=step)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(restored)
    }


def assert_identical(one: Path, other: Path) -> None:
    """In every bit of the state and of the metrics."""
    assert metrics(one) == metrics(other)
    assert metrics(one, "validation") == metrics(other, "validation")
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name].tobytes() != b[name].tobytes()] == []


def assert_near(one: Path, other: Path, *, atol: float) -> None:
    """Up to the order of sums: the same batches on other devices."""
    a, b = metrics(one), metrics(other)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    losses: Sequence[Sequence[float]] = [[line["loss"] for line in lines] for lines in (a, b)]
    np.testing.assert_allclose(*losses, atol=atol)
    left, right = state(one), state(other)
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], atol=atol, err_msg=name)


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(folder: Path) -> None:
    """In its largest file."""
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 8
    path.write_bytes(content)
