"""launch/gke: the JobSets are what Kubernetes takes, and say what the spec says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubeflow_trainer_api.models as kubernetes
import pytest
import yaml

from tests.helpers.paths import ROOT

GKE = ROOT / "launch" / "gke"
SPEC = """
NAME=tiny
CONFIG=configs/demo.py
FLAGS="--train.steps 10 --data.source 'files:my text/*.txt'"
BUCKET=my-bucket
DATA=prepared/tiny
ACCELERATOR={accelerator}
COUNT={count}
SPOT={spot}
IMAGE=europe-docker.pkg.dev/my-project/images/bert-jax:1
"""
ARGUMENTS = [
    *("pretrain", "configs/demo.py", "--train.steps", "10", "--data.source", "files:my text/*.txt"),
    *("--data.dir", "gs://my-bucket/prepared/tiny", "--workdir", "gs://my-bucket/runs/tiny"),
]


def render(folder: Path, *, status: int = 0, spec: str = SPEC, **values: object) -> str:
    path = folder / "spec.env"
    path.write_text(spec.format(**{"accelerator": "v5e:16x16", "count": 1, "spot": "yes"} | values))
    done = subprocess.run([sys.executable, GKE / "render.py", path], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def jobset(folder: Path, **values: object) -> dict[str, Any]:
    return yaml.safe_load(render(folder, **values))


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    (job,) = manifest["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


CLUSTERS = [
    {"accelerator": "v5e:16x16"},
    {"accelerator": "v5p:2x2x4", "count": 3},
    {"accelerator": "v6e:2x4", "spot": "no"},
    {"accelerator": "nvidia-h100-80gb:8", "count": 4},
]


@pytest.mark.parametrize("values", CLUSTERS, ids=lambda values: values["accelerator"])
def test_kubernetes_and_jobset_know_every_field(tmp_path: Path, values: dict[str, Any]):
    """Read into the models made of their schemas and written again: a field that they do not have is lost."""
    manifest = jobset(tmp_path, **values)
    read = kubernetes.JobsetV1alpha2JobSet.from_dict(manifest)
    assert read is not None
    assert read.to_dict() == manifest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest: manifest["spec"].update(failurePolice={}),
        lambda manifest: pod(manifest)["containers"][0].update(argz=[]),
        lambda manifest: pod(manifest)["containers"][0]["ports"][0].update(containerPort="http"),
        lambda manifest: pod(manifest)["volumes"][0].pop("name"),
    ],
)
def test_the_schemas_would_tell(tmp_path: Path, spoil: Any):
    manifest = jobset(tmp_path)
    spoil(manifest)
    try:
        written = kubernetes.JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    except ValueError:
        return
    assert written != manifest


@pytest.mark.parametrize(
    ("accelerator", "machines", "chips", "node"),
    [
        ("v5e:16x16", 64, 4, "tpu-v5-lite-podslice"),
        ("v5e:2x4", 1, 8, "tpu-v5-lite-podslice"),
        ("v5e:4x4", 4, 4, "tpu-v5-lite-podslice"),
        ("v4:8x8x8", 128, 4, "tpu-v4-podslice"),
        ("v5p:2x2x1", 1, 4, "tpu-v5p-slice"),
        ("v6e:16x16", 64, 4, "tpu-v6e-slice"),
    ],
)
def test_slices_have_the_machines_and_chips_of_their_topology(
    tmp_path: Path, accelerator: str, machines: int, chips: int, node: str
):
    manifest = jobset(tmp_path, accelerator=accelerator, count=2)
    (job,) = manifest["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    assert (job["template"]["spec"]["parallelism"], job["template"]["spec"]["completions"]) == (machines,) * 2
    container = pod(manifest)["containers"][0]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert container["args"] == ARGUMENTS
    assert pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": node,
        "cloud.google.com/gke-tpu-topology": accelerator.partition(":")[2],
        "cloud.google.com/gke-spot": "true",
    }


def test_processes_on_gpus_are_told_of_each_other(tmp_path: Path):
    manifest = jobset(tmp_path, accelerator="nvidia-h100-80gb:8", count=4, spot="no")
    (job,) = manifest["spec"]["replicatedJobs"]
    assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (1, 4)
    container = pod(manifest)["containers"][0]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert {"BERT_JAX_JOB", "BERT_JAX_ATTEMPT"} <= variables.keys()
    assert variables["JAX_NUM_PROCESSES"] == "4"
    # JobSet's names of pods: of the set, of the job, two numbers; the set's name is the subdomain.
    host = f"{manifest['metadata']['name']}-{job['name']}-0-0.{manifest['metadata']['name']}"
    assert variables["JAX_COORDINATOR_ADDRESS"] == f"{host}:{container['ports'][0]['containerPort']}"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert pod(manifest)["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}


def test_the_data_are_copied_to_the_disk_of_the_machine(tmp_path: Path):
    spec = pod(jobset(tmp_path))
    (container,) = spec["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounted.values()) <= {volume["name"] for volume in spec["volumes"]}
    (cache,) = (entry["value"] for entry in container["env"] if entry["name"] == "BERT_JAX_CACHE")
    assert {"name": mounted[cache], "emptyDir": {}} in spec["volumes"]


def test_a_refusal_is_not_tried_again_and_everything_else_is(tmp_path: Path):
    manifest = jobset(tmp_path)
    (job,) = manifest["spec"]["replicatedJobs"]
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert rule["onExitCodes"]["containerName"] == pod(manifest)["containers"][0]["name"]
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 100
    assert [entry["action"] for entry in policy["rules"]] == ["FailJobSet"]
    assert pod(manifest)["terminationGracePeriodSeconds"] >= 120


def test_a_value_is_never_more_than_a_value(tmp_path: Path):
    manifest = jobset(tmp_path, spec=SPEC.replace("files:my text/*.txt", "x], privileged: [true"))
    assert pod(manifest)["containers"][0]["args"][5] == "x], privileged: [true"
    assert "privileged" not in pod(manifest)["containers"][0]


def test_a_spec_without_an_image_is_refused(tmp_path: Path):
    said = render(tmp_path, status=2, spec=re.sub("IMAGE=.*", "", SPEC))
    assert said == "render: IMAGE is missing: what was built of launch/gke/Dockerfile and pushed\n"


def is_ignored(file: str) -> bool:
    """By the rules of Docker: * is within a folder, ** any folders; the last line that fits decides."""
    ignored = False
    for line in (GKE / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", file):
            ignored = not line.startswith("!")
    return ignored


def test_the_image_has_what_the_line_needs_and_is_nobodys_root():
    lines = [
        shlex.split(line) for line in (GKE / "Dockerfile").read_text().splitlines() if line[:1].isupper()
    ]
    base = next(line for line in lines if line[0] == "FROM")[1]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base), "pinned"
    copied = {source for line in lines if line[0] == "COPY" for source in line[1:-1]}
    assert {"bert_jax", "data_pipeline", "configs", "pyproject.toml", "constraints.txt"} <= copied
    assert all((ROOT / source).exists() for source in copied)
    files = subprocess.run(["git", "ls-files", *copied], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not any(map(is_ignored, files.stdout.splitlines())), "all is sent to the builder"
    assert is_ignored("runs/my-data/dataset_info.json")
    assert lines.index(["USER", "1000"]) < lines.index(["ENTRYPOINT", "[bert-jax]"])
