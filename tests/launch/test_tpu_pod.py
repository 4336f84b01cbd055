"""launch/tpu_pod.sh against a stand-in for gcloud that keeps a record, and makes trouble."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.runs import SECONDS, wait_until, whole_lines

SPEC = """
NAME=tiny
CONFIG=configs/demo.py
FLAGS="--train.steps 10 --data.source 'files:my text/*.txt'"
BUCKET=my-bucket
DATA=tiny-data
ACCELERATOR=v4:2x2x2   # two workers
COUNT=1
SPOT=yes
PROJECT=my-project
ZONE=us-central2-b
"""
LINE = [
    *(
        "bert-jax",
        "pretrain",
        "configs/demo.py",
        "--train.steps",
        "10",
        "--data.source",
        "files:my text/*.txt",
    ),
    *("--data.dir", "gs://my-bucket/tiny-data", "--workdir", "gs://my-bucket/runs/tiny"),
]
START = ["ssh: kill -0", "scp", "ssh: install", "ssh: nohup"]
FOLLOW = ["ssh: tail", "ssh: status"]


KINDS = {
    "uv pip": "install",
    "nohup": "nohup",
    "tail --lines": "tail",
    "cat run/status": "status",
    "kill -0": "kill -0",
    "kill -TERM": "stop",
}
"""A part of a command -> what it is for."""


LOG = ["line 1", "line 2", "line 3"]


class Pod:
    """A folder with a spec, a scenario and the record of what was asked of gcloud."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "spec.env").write_text(SPEC)
        self.trouble()
        self.statuses("0")

    def trouble(self, **scenario: object) -> None:
        said = {"states": [["WAITING_FOR_RESOURCES", "ACTIVE"]], "drops": 0, "workers": 2} | scenario
        if said["states"][0][0] != "WAITING_FOR_RESOURCES":
            said["states"] = [["WAITING_FOR_RESOURCES", *states] for states in said["states"]]
        (self.folder / "scenario.json").write_text(json.dumps(said))

    def statuses(self, *statuses: str) -> None:
        """Of the run, each time that it is started."""
        for worker in range(2):
            home = self.folder / "home" / str(worker)
            home.mkdir(parents=True, exist_ok=True)
            (home / "statuses").write_text("\n".join(statuses) + "\n")

    def start(self, verb: str, **environment: str) -> subprocess.Popen:
        path = f"{ROOT / 'tests' / 'stand_ins'}:{os.environ['PATH']}"
        return subprocess.Popen(
            [ROOT / "launch" / "tpu_pod.sh", self.folder / "spec.env", verb],
            env=os.environ
            | {"PATH": path, "STAND_IN": str(self.folder), "POLL_SECONDS": "0", "PATIENCE": "5"}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, verb: str, *, status: int, **environment: str) -> str:
        process = self.start(verb, **environment)
        output = process.communicate(timeout=SECONDS)[0]
        assert process.returncode == status, output
        return output

    def calls(self) -> list[str]:
        """What was asked, in short; the same look twice in a row is one."""
        short: list[str] = []
        for line in whole_lines(self.folder / "calls.jsonl"):
            words = json.loads(line)
            assert {"--project=my-project", "--zone=us-central2-b"} <= set(words)
            verb = words[3]
            if verb == "ssh":
                command = words[-1]
                verb = "ssh: " + next(kind for text, kind in KINDS.items() if text in command)
            short.append(verb)
        return short

    @property
    def exists(self) -> bool:
        return (self.folder / "pod.json").exists()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def without_waiting(calls: list[str]) -> list[str]:
    return [call for i, call in enumerate(calls) if call != "describe" or calls[i - 1 : i] != ["describe"]]


def test_a_run_from_nothing_to_its_end(pod: Pod):
    output = pod("run", status=0)
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("line ")] == LOG
    assert f"tpu_pod: on each worker: {shlex.join(LINE)}" in lines
    assert any("before renting: bert-jax plan configs/demo.py" in line for line in lines)
    assert "|".join(LINE[1:]) in lines, "and that is what ran"
    assert (pod.folder / "home" / "1" / "run" / "status").read_text() == "0\n", "on the other worker too"
    expected = ["describe", "create", "describe", *START, *FOLLOW, "describe", "delete"]
    assert without_waiting(pod.calls()) == expected
    create = next(line for line in (pod.folder / "calls.jsonl").read_text().splitlines() if "create" in line)
    wanted = [
        "--type=v4",
        "--topology=2x2x2",
        "--spot",
        "--node-id=tiny",
        "--runtime-version=tpu-ubuntu2204-base",
    ]
    assert set(wanted) <= set(json.loads(create))
    assert not pod.exists, "the run is over, and its files are in the bucket"


def test_a_refused_quota_is_not_asked_for_again(pod: Pod):
    pod.trouble(refuse="RESOURCE_EXHAUSTED: Quota limit 'TPUV4PodPerProject' has been exceeded")
    output = pod("run", status=2)
    assert "Quota limit" in output
    assert "Google Cloud refused the pod (see above); nothing was started" in output
    assert "costs money" not in output, "there is none"
    assert pod.calls() == ["describe", "create", "describe"]


def test_a_pod_that_is_taken_away_while_it_is_waited_for_is_rented_again(pod: Pod):
    pod.trouble(states=[["PROVISIONING", "SUSPENDING", "SUSPENDED"], ["ACTIVE"]])
    output = pod("run", status=0)
    assert "tiny was taken away: SUSPENDING" in output
    assert [call for call in pod.calls() if call in ("create", "delete")] == ["create", "delete"] * 2


@pytest.mark.long
def test_it_gives_up(pod: Pod):
    pod.trouble(states=[["FAILED"]])
    output = pod("run", status=1)
    assert "that was the 5th time in a row; giving up" in output
    assert "costs money while it is ACTIVE" in output, "the last one is still there"
    assert pod.calls().count("create") == 5
    assert "scp" not in pod.calls()


@pytest.mark.long
def test_a_pod_that_is_taken_away_while_it_runs_is_rented_again(pod: Pod):
    pod.trouble(states=[["ACTIVE", "SUSPENDED"], ["ACTIVE"]], drops=1)
    pod.statuses("0", "0")
    output = pod("run", status=0)
    assert "tiny was taken away: SUSPENDED" in output
    assert [call for call in pod.calls() if call in ("create", "ssh: nohup")] == ["create", "ssh: nohup"] * 2


@pytest.mark.long
def test_a_lost_connection_loses_nothing(pod: Pod):
    pod.trouble(drops=3)
    output = pod("run", status=0)
    assert output.count("the connection was lost; trying again (1 of 5)") >= 1
    assert [line for line in output.splitlines() if line.startswith("line ")] == [
        "line 1",
        "line 2",
        "line 3",
    ]
    assert pod.calls().count("ssh: nohup") == 1, "the run went on by itself"


@pytest.mark.long
def test_workers_that_do_not_answer_are_given_up_and_said(pod: Pod):
    pod.trouble(drops=1000)
    pod.statuses("wait")
    output = pod("run", status=1)
    assert "worker 0 does not answer; a run that was started goes on" in output
    assert "costs money while it is ACTIVE" in output
    assert pod.calls().count("ssh: nohup") == 1, "never a second run beside one that may go on"
    pod.trouble()
    pod("stop", status=0)


def test_a_wrong_number_of_workers_is_refused(pod: Pod):
    pod.trouble(workers=3)
    output = pod("run", status=2)
    assert "tiny has 3 workers, where --type=v4 --topology=2x2x2 should have 2" in output
    assert "costs money while it is ACTIVE" in output
    assert not any(call.startswith("ssh") for call in pod.calls())


def test_a_run_that_was_refused_is_not_started_again(pod: Pod):
    pod.statuses("2", "0")
    output = pod("run", status=2)
    assert "mend it, and run again" in output
    assert "costs money while it is ACTIVE" in output
    assert pod.calls().count("ssh: nohup") == 1
    assert pod.exists


@pytest.mark.long
def test_a_run_that_hung_goes_on_on_the_same_pod(pod: Pod):
    pod.statuses("70", "75", "0")
    output = pod("run", status=0)
    assert "the run ended with status 70; it goes on from its last checkpoint" in output
    assert "the run ended with status 75; it goes on from its last checkpoint" in output, (
        "a notice, not `stop`"
    )
    assert (pod.calls().count("create"), pod.calls().count("ssh: nohup")) == (1, 3)


@pytest.mark.long
def test_stop_from_elsewhere_and_follow_again(pod: Pod):
    pod.statuses("wait")
    first = pod.start("run")
    wait_until((pod.folder / "home" / "0" / "run" / "pid").exists, first)
    assert "going on" in pod("status", status=0)
    second = pod.start("run")
    wait_until(lambda: pod.calls().count("ssh: tail") == 2, second)
    pod("stop", status=0)
    for process in (first, second):
        output = process.communicate(timeout=SECONDS)[0]
        assert process.returncode == 75, output
        assert "tpu_pod: stopped, and saved" in output
    assert "it is going on already; this is its log" in output
    assert pod.calls().count("ssh: nohup") == 1
    assert pod.exists
    assert "ended with status 75" in pod("status", status=0)


@pytest.mark.parametrize("verb", ["run", "delete"])
def test_a_pod_of_somebody_else_is_left_alone(pod: Pod, verb: str):
    (pod.folder / "pod.json").write_text(json.dumps({"maker": "", "states": ["ACTIVE"]}))
    assert "a pod tiny in us-central2-b that this script did not make" in pod(verb, status=2)
    assert set(pod.calls()) == {"describe"}


def test_a_dry_run_runs_nothing(pod: Pod):
    for verb in ("run", "status", "log", "stop", "delete"):
        output = pod(verb, status=0, DRY_RUN="1")
        said = [line for line in output.splitlines() if not line.startswith("tpu_pod: ")]
        assert all(line.startswith("gcloud compute tpus ") for line in said), output
    assert not (pod.folder / "calls.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("BUCKET=my-bucket", ""), "BUCKET is ''; it must be the name of a bucket"),
        (("PROJECT=my-project", ""), "needs PROJECT, ZONE, and a TPU as ACCELERATOR"),
        (("v4:2x2x2", "v4:2x2"), "it must be TPU:TOPOLOGY such as v5e:16x16"),
        (("configs/demo.py", "../demo.py"), "it must be a file of this checkout"),
        (
            ("--train.steps 10", "--workdir=/tmp"),
            "FLAGS has --workdir; it follows from DATA, BUCKET and NAME",
        ),
        (("NAME=tiny", 'NAME="$(rm -rf /)"'), "NAME is '$(rm -rf /)'; it must be up to 32 of a-z"),
        (("COUNT=1", "COUNTS=1"), "line 8: there is no COUNTS"),
        (("SPOT=yes", 'SPOT="yes'), "line 9: No closing quotation"),
        (("SPOT=yes", "SPOT = yes"), "line 9: it must be KEY=VALUE"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(pod: Pod, change: tuple[str, str], message: str):
    (pod.folder / "spec.env").write_text(SPEC.replace(*change))
    assert message in pod("run", status=2)
    assert not (pod.folder / "calls.jsonl").exists()
