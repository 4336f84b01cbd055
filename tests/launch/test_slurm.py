"""launch/slurm.sbatch: against a stand-in for Slurm, and on a real one of this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.runs import free_port, metrics, wait_until

SBATCH = ROOT / "launch" / "slurm.sbatch"
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Job:
    """The script as Slurm would start it, with a stand-in for Slurm that keeps a record."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(
        self, *arguments: str, ends_with: int = 0, **environment: str
    ) -> subprocess.CompletedProcess:
        slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1", "TMPDIR": "/scratch"}
        stand_in = {
            "PATH": f"{ROOT / 'tests' / 'stand_ins'}:{os.environ['PATH']}",
            "STAND_IN": str(self.folder),
            "STATUS": str(ends_with),
        }
        return subprocess.run(
            ["bash", str(SBATCH), *arguments],
            env=os.environ | slurm | stand_in | environment,
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


ARGUMENTS = ("configs/demo.py", "--workdir", "/shared/my run")
RUN = "srun --wait=120 bert-jax pretrain configs/demo.py --workdir /shared/my run"
REQUEUE = "scontrol requeue 7"


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_is_done_or_refused_is_not_queued_again(job: Job, status: int):
    assert job(*ARGUMENTS, ends_with=status).returncode == status
    assert job.calls() == [f"{RUN} []"]


@pytest.mark.parametrize("status", [1, 70, 75, 134, 143])
def test_a_job_that_was_stopped_or_crashed_is_queued_again(job: Job, status: int):
    assert job(*ARGUMENTS, ends_with=status, SLURM_RESTART_COUNT="49").returncode == 0
    assert job.calls() == [f"{RUN} []", REQUEUE]


def test_there_is_an_end_to_it(job: Job):
    done = job(*ARGUMENTS, ends_with=70, SLURM_RESTART_COUNT="50")
    assert done.returncode == 70
    assert "that was restart 50; giving up" in done.stdout
    assert REQUEUE not in job.calls()


@pytest.mark.parametrize(("tasks", "devices"), [("1", "0,1,2,3"), ("4", "")])
def test_a_task_gets_the_devices_that_are_its_own(job: Job, tasks: str, devices: str):
    """One a node gets all, which JAX would not give it; of several a node, JAX gives each its own."""
    job(*ARGUMENTS, SLURM_GPUS_ON_NODE="4", SLURM_NTASKS_PER_NODE=tasks)
    assert job.calls() == [f"{RUN} [{devices}]"]


def test_data_are_copied_to_each_node_and_taken_away_again(job: Job):
    job(*ARGUMENTS, DATA="/shared/wikipedia")
    each = "srun --ntasks=2 --ntasks-per-node=1"
    assert job.calls() == [
        f"{each} cp --recursive /shared/wikipedia/. /scratch/bert-jax-7 []",
        f"{RUN} --data.dir /scratch/bert-jax-7 []",
        f"{each} rm -rf /scratch/bert-jax-7 []",
    ]


def test_a_line_without_a_config_is_told_how(job: Job):
    done = job()
    assert done.returncode == 2
    assert "sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sbatch configs/bert_large.py" in done.stderr
    assert job.calls() == []


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which this machine is a cluster of one node."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install munge slurmctld slurmd slurm-client")
    if getpass.getuser() != "root":
        pytest.skip("slurmd needs root")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)  # munged wants nobody else to write there
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    conf = CONF.format(folder=folder, host=host, port=free_port(), node_port=free_port(), cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(conf)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--{kind}-file={folder}/munged.{kind}" for kind in ("pid", "log", "seed")]
    daemons = [
        subprocess.Popen(command, env=environment)
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host])
    ]
    idle = ["sinfo", "--noheader", "--format=%T"]
    wait_until(
        lambda: "idle" in subprocess.run(idle, env=environment, capture_output=True, text=True).stdout,
        *daemons,
    )
    yield environment
    for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait()


@pytest.mark.slow
def test_two_tasks_of_a_real_job_are_stopped_queued_again_and_finish(
    slurm: dict[str, str], recipe: Path, tmp_path: Path
):
    workdir, log = tmp_path / "run", tmp_path / "log"
    submit = ["sbatch", "--parsable", "--ntasks-per-node=2", "--overcommit", f"--output={log}", str(SBATCH)]
    flags = ["--workdir", str(workdir), "--train.steps", "30", "--train.log-every", "1"]
    shell = {"env": slurm, "text": True, "cwd": ROOT, "check": True}
    job = subprocess.run([*submit, str(recipe), *flags], stdout=subprocess.PIPE, **shell).stdout.strip()

    def told() -> str:
        return log.read_text() if log.exists() else ""

    deadline = time.monotonic() + 300
    while len(metrics(workdir)) < 3:
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=TERM", job], **shell)
    while told().count("status ") < 2:
        assert time.monotonic() < deadline, told()
        time.sleep(1)
    output = told()
    assert "start 0 of job" in output
    assert "2 process(es) with 1 x cpu each" in output
    assert "status 75" in output
    assert "start 1 of job" in output
    assert output.splitlines()[-1] == "status 0", output
    assert [line["step"] for line in metrics(workdir)] == list(range(1, 31))
