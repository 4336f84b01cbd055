"""Pods of TPUs, as libtpu describes them and compiles for them without a TPU."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import jax

from bert_jax.parallel.platform import Platform
from bert_jax.planning.pod import Pod, chip_of
from data_pipeline.errors import UserError

EXAMPLES = "v5e:16x16, v4:8x8x8, v5p:8x8x8, v6e:16x16 (a TPU's shape)"

KINDS = ("v2", "v3", "v4", "v5", "v6", "v7")
"""How the names of TPUs begin; libtpu knows which of them there are."""


def takes(topology: str) -> bool:
    return topology.startswith(KINDS)


def pod(topology: str, *, slices: int) -> Pod:
    """The devices of `slices` times a topology such as v5e:16x16.

    Raises:
      UserError: libtpu is missing, or the topology does not exist.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU machine to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor a TPU for one process alone
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on the machine
    try:
        import libtpu
    except ImportError as error:
        raise UserError("the TPU's compiler is missing: pip install 'bert-jax[tpu]'") from error
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology {topology} does not exist: {error}") from error
    devices: list[jax.Device] = list(found.devices)
    chip = chip_of(devices[0])
    return Pod(
        name=f"{slices} x {topology}" if slices > 1 else topology,
        platform=Platform("tpu"),
        devices=devices,
        chip=chip,
        memory=chip.memory,
        memory_rule="the compiler refuses what does not fit",
        host_of=lambda device: getattr(device, "slice_index", 0),
        hosts_are="slices",
        links="network",
        compiler=f"{devices[0].device_kind} jax {jax.__version__} libtpu {libtpu.__version__}",
        compiling=contextlib.nullcontext,
    )
