"""The check of a device rehearsed on this machine, without what a bare one lacks: nothing in it is silly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.device import table
from tests.helpers.paths import ROOT

Run = Callable[..., list[dict]]


@pytest.fixture(scope="module")
def folder(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is packed, of a small corpus."""
    folder = tmp_path_factory.mktemp("device") / "folder"
    arguments = ["--source", f"files:{corpus_file}", "--rows", "500"]
    subprocess.run([sys.executable, "-m", "tests.device.pack", folder, *arguments], check=True, cwd=ROOT)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    def run(*parts: str, status: int = 0, seconds: int = 3600) -> list[dict]:
        """From the source that was packed along, as a machine has it that got the folder alone."""
        command = [sys.executable, "-m", "tests.device.run", folder, "--out", tmp_path / "out", "--rehearse"]
        arguments = ["--seconds", str(seconds), "--parts", *parts]
        ended = subprocess.run(
            [*command, *arguments], cwd=folder / "source", stdout=subprocess.PIPE, text=True
        )
        assert ended.returncode == status, ended.stdout
        assert ended.stdout == (tmp_path / "out" / "results.jsonl").read_text()
        return [json.loads(line) for line in ended.stdout.splitlines()]

    return run


@pytest.mark.long
def test_a_bare_machine_has_all_that_is_imported():
    """None of the parts, nor the loop of a run, imports what such a machine lacks."""
    program = """
import sys
import tests.device.kernels, tests.device.machine, tests.device.part, tests.device.peer
import tests.device.pretraining, tests.device.run, tests.device.speed, tests.device.steps
import bert_jax.interop.initialize, bert_jax.run.loop, bert_jax.workdir.run_files, tests.helpers.runs
for name in ("tensorflow", "array_record", "backports", "tyro", "gcsfs"):
    assert sys.modules[name] is None, name
"""
    environment = os.environ | {"BARE_MACHINE": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_part_that_breaks_is_a_line_with_its_error(run: Run, folder: Path):
    losses = folder / "losses.json"
    losses.rename(folder / "elsewhere")
    try:
        _, line = run("steps", status=1)
    finally:
        (folder / "elsewhere").rename(losses)
    assert line["ok"] is False
    assert "FileNotFoundError" in line["error"]
    assert "losses.json" in line["error"]


@pytest.mark.slow
def test_what_there_is_no_time_for_is_said(run: Run):
    machine, *lines = run("kernels", "speed", seconds=0)
    assert [line["not run"] for line in (machine, *lines)] == ["no time left"] * 9


@pytest.mark.slow
def test_the_whole_check(run: Run, folder: Path, tmp_path: Path):
    """From the packed folder alone, with nothing that only this machine has."""
    machine, *lines = run("")
    assert machine["rehearsal"]
    assert machine["carried"]["tensorboardX"].startswith(str(folder / "packages"))
    failed = [line for line in lines if line["ok"] is False]
    assert not failed, failed
    left_out = [line for line in lines if line["ok"] is None]
    assert {line["part"] for line in left_out} == {"kernels"}, left_out
    kernels = {line["what"].partition(" ")[0] for line in lines if line["part"] == "kernels" and line["ok"]}
    assert kernels == {"block_local", "xla"}
    steps = [line for line in lines if line["part"] == "steps"]
    assert [line["what"] for line in steps] == [
        f"20 steps {dtype} {name}" for name in ("128", "512-packed") for dtype in ("float32", "bfloat16")
    ]
    assert all(line["last"] < line["first"] - 0.5 for line in steps)
    (resumed,) = [line for line in lines if "same bits" in line]
    assert 0 < resumed["resumed from step"] < resumed["killed at step"]
    sides = [line["side"] for line in lines if line["part"] == "speed"]
    assert sides == ["ours", "torch.compile"] * 7
    with pytest.raises(SystemExit, match="nothing that it has measured"):
        table.read([tmp_path / "out"])


CARD = {"part": "machine", "what": "NVIDIA H100", "ok": True, "python": "3.12", "versions": {"jax": "0.11.2"}}
OURS = {"what": "BERT", "batch": 8, "ok": True, "low": 1.0, "high": 3.0, "tokens_per_second": 1e6}


def test_the_table_has_a_line_for_each_result(tmp_path: Path):
    lines = [
        CARD,
        OURS | {"part": "speed", "side": "ours", "ms": 2.0, "mfu": 0.5, "gb": 9.0, "kernel": "cudnn"},
        OURS | {"part": "speed", "side": "torch.compile", "ms": 3.0, "times_ours": 1.5},
        {"part": "kernels", "what": "xla", "ok": True, "output": 1e-7, "gradients": 2e-7, "tolerance": 1e-5},
        {"part": "steps", "what": "20", "ok": False, "kernel": "xla", "difference": 2.0, "tolerance": 0.1},
        {"part": "pretraining", "what": "all", "ok": None, "not run": "no time left"},
        {"part": "speed", "what": "BERT", "ok": None, "not run": "no time left"},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = "\n".join(table.markdown(table.read([tmp_path])))
    for expected in (
        "NVIDIA H100, Python 3.12, jax 0.11.2.",
        "| BERT | 8 | ours, cudnn | 2.0 (1.0 to 3.0) | 50.0% | 1,000,000 | 9.0 |  |",
        "| BERT | 8 | torch.compile | 3.0 (1.0 to 3.0) |  | 1,000,000 |  | 1.50 |",
        "| xla | output 1.0e-07, gradients 2.0e-07 | 1e-05 | right |",
        "| losses of 20, xla | 2.0e+00 | 1e-01 | **wrong** |",
        "- **Failed**: steps, 20: a difference, above",
        "- Not run: pretraining, all: no time left.",
    ):
        assert expected in found
    assert found.count("Not run") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "new", "--parts", "nonsense"], "no part begins with 'nonsense'; there are \"kernels\","),
        (["--out", "facts.json"], "facts.json is a file, or not empty; give a new folder"),
        (["--out", "."], ". is a file, or not empty; give a new folder"),
    ],
)
def test_a_check_that_is_asked_for_wrongly_is_none(tmp_path: Path, arguments: list[str], message: str):
    (tmp_path / "facts.json").write_text("{}")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.device.run", ".", *arguments],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 2
    assert message in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_folder_that_is_there_is_not_overwritten(folder: Path):
    command = [sys.executable, "-m", "tests.device.pack", folder]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith("remove it, or give another folder")
