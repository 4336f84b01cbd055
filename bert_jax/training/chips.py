"""What chips can do, from their makers' data sheets: dense bf16, per chip."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    flops: float
    """bf16 FLOP/s."""
    memory: float
    """Bytes."""
    memory_bandwidth: float
    """Bytes a second."""
    network_bandwidth: float
    """Bytes a second out of the chip, one way, over all links to its neighbours; GPUs have them in a host."""
    between_hosts: float | None = None
    """Bytes a second out of the chip, one way, to other hosts; None: where it is the same, in a TPU pod."""


GIB = 2**30

CHIPS = {
    # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; one way of the inter-chip interconnect
    "TPU v4": Chip(275e12, 32 * GIB, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 200e9),
    "TPU v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 32 * GIB, 1640e9, 400e9),
    # nvidia.com/en-us/data-center/a100, h100, h200, dgx-b200: SXM boards, NVLink one way. Between hosts one
    # network card a GPU, as in NVIDIA's own hosts (docs.nvidia.com/dgx): 200 Gb/s ConnectX-6 in a DGX A100,
    # 400 Gb/s ConnectX-7 in a DGX H100, H200 and B200. Other hosts may have less.
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40 * GIB, 1555e9, 300e9, 25e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 80 * GIB, 2039e9, 300e9, 25e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 80 * GIB, 3350e9, 450e9, 50e9),
    "NVIDIA H200": Chip(989e12, 141 * GIB, 4800e9, 450e9, 50e9),
    "NVIDIA B200": Chip(2250e12, 180 * GIB, 8000e9, 900e9, 50e9),
    # nvidia.com/en-us/data-center/l4: PCIe 4.0 x16, no NVLink. Between hosts an eighth of the 100 Gb/s that a
    # machine with eight of them has (g2-standard-96, g6.48xlarge).
    "NVIDIA L4": Chip(121e12, 24 * GIB, 300e9, 32e9, 1.5625e9),
}
"""By jax.Device.device_kind. Boards of the same family differ: an H100 PCIe is slower, an L40S is no L4."""


def chip(device_kind: str) -> Chip | None:
    """None where it is not known: CPUs."""
    return CHIPS.get(device_kind)
