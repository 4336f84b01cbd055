"""The JobSet of a run on GKE, from a copy of launch/run.env.

python launch/gke/render.py my.env | kubectl apply -f -
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from spec import Spec, read

COORDINATOR_PORT = 1234
JOB = {
    "name": "BERT_JAX_JOB",
    "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/jobset-uid']"}},
}
ATTEMPT = {
    "name": "BERT_JAX_ATTEMPT",
    "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"}},
}
"""With them the processes of a restart need not wait for the lease of the ones before."""
CACHE = {"name": "BERT_JAX_CACHE", "value": "/data"}
"""Where the dataset is copied to: the machine's own disk, since it is read in random order."""


def render(spec: Spec) -> str:
    """Raises ValueError if there is no IMAGE."""
    if not spec.image:
        raise ValueError("IMAGE is missing: what was built of launch/gke/Dockerfile and pushed")
    values = {
        "name": spec.name,
        "image": spec.image,
        "arguments": spec.line[1:],  # the image starts bert-jax
        **(_tpu(spec) if spec.tpu else _gpu(spec)),
    }
    if spec.spot:
        values["nodes"]["cloud.google.com/gke-spot"] = "true"
    # JSON is YAML too, so that no value can be taken for more than it is.
    filled = {name: json.dumps(value) for name, value in values.items()}
    return Template((Path(__file__).parent / "jobset.yaml").read_text()).substitute(filled)


def _tpu(spec: Spec) -> dict[str, Any]:
    """GKE tells the processes of each other; JAX finds it there."""
    assert spec.tpu is not None
    return {
        "job": "slice",
        "jobs": spec.count,
        "machines": spec.hosts,
        # A slice is a node pool: a Job never shares one, and never spreads over two.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        "nodes": {
            "cloud.google.com/gke-tpu-accelerator": spec.tpu.node,
            "cloud.google.com/gke-tpu-topology": spec.size,
        },
        "environment": [JOB, ATTEMPT, CACHE],
        # libtpu; several slices; jax.distributed
        "ports": _ports(8471, 8080, 8482),
        "devices": {"google.com/tpu": spec.chips // spec.hosts},
    }


def _gpu(spec: Spec) -> dict[str, Any]:
    """The processes are told of each other outright."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    first = f"{spec.name}-machine-0-0.{spec.name}:{COORDINATOR_PORT}"
    return {
        "job": "machine",
        "jobs": 1,
        "machines": spec.count,
        "annotations": {},
        "nodes": {"cloud.google.com/gke-accelerator": spec.accelerator},
        "environment": [
            JOB,
            ATTEMPT,
            CACHE,
            {"name": "JAX_COORDINATOR_ADDRESS", "value": first},
            {"name": "JAX_NUM_PROCESSES", "value": str(spec.count)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
            {"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64"},  # where GKE puts the driver
        ],
        "ports": _ports(COORDINATOR_PORT),
        "devices": {"nvidia.com/gpu": spec.chips},
    }


def _ports(*ports: int) -> list[dict[str, Any]]:
    return [{"containerPort": port, "protocol": "TCP"} for port in ports]


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python launch/gke/render.py SPEC", file=sys.stderr)
        return 2
    try:
        print(render(read(Path(sys.argv[1]))), end="")
    except (OSError, ValueError) as error:
        print(f"render: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
