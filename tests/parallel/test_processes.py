"""Processes find each other, and agree on what they run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bert_jax.parallel.exit_status import HUNG
from bert_jax.parallel.processes import disagreement
from bert_jax.workdir.provenance import facts
from tests.helpers.configs import replace
from tests.helpers.paths import ROOT
from tests.helpers.runs import finish, free_port

HOSTS = ["a", "b", "c", "d"]


def python(program: str, **environment: object) -> subprocess.Popen:
    strings = {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | strings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


JOIN = """
import jax
from bert_jax.parallel import processes
processes.initialize()
print(jax.process_index(), "of", jax.process_count())
"""


def test_a_process_without_others_is_alone():
    assert finish(python(JOIN)) == "0 of 1\n"


def test_tasks_of_slurm_find_each_other():
    """As srun sets it; the port follows from the job's number."""
    step = {
        "SLURM_JOB_ID": free_port(),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": 2,
        "SLURM_STEP_NUM_NODES": 1,
    }
    tasks = [python(JOIN, **step, SLURM_PROCID=index, SLURM_LOCALID=index) for index in range(2)]
    assert [finish(task) for task in tasks] == ["0 of 2\n", "1 of 2\n"]


def test_one_that_waits_in_vain_says_so():
    program = "from bert_jax.parallel import processes; processes.START_SECONDS = 3; processes.initialize()"
    address = f"localhost:{free_port()}"
    process = python(program, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=0)
    output = finish(process, status=HUNG)
    assert "timed out after 3 s waiting for the processes of the run to connect" in output
    assert f"JAX_COORDINATOR_ADDRESS={address}" in output


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("1111", None),
        ("1121", "x is 2 on process 2 (host c), and 1 on 3 of 4"),
        ("2111", "x is 2 on process 0 (host a), and 1 on 3 of 4"),
        ("1122", "x is 2 on process 2 (host c), process 3 (host d), and 1 on 2 of 4"),
        ("123", "x is 2 on process 1 (host b), process 2 (host c), and 1 on 1 of 3"),
    ],
)
def test_the_process_that_differs_is_named(values: str, message: str | None):
    known = [{"same": "0", "x": value} for value in values]
    assert (disagreement(HOSTS, known) or "").endswith(message or "")
    assert (message is None) == (disagreement(HOSTS, known) is None)


def test_a_fact_that_one_lacks_is_one_too():
    assert "x is unknown on process 1 (host b)" in str(disagreement(HOSTS, [{"x": "1"}, {}, {"x": "1"}]))


def test_every_field_of_the_config_is_a_fact(config):
    one, other = facts(config), facts(replace(config, optimizer__weight_decay=0.5, train__stop_at=3))
    differing = {name for name in one if one[name] != other[name]}
    assert differing == {"optimizer.weight_decay", "train.stop_at"}
    assert {"the source code", "the version of jax", "the number of devices"} < one.keys()
