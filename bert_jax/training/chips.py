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
    network_bandwidth: float | None
    """Bytes a second out of the chip, over all links to its neighbours; None where the box decides."""


GIB = 2**30

CHIPS = {
    # cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; one way of the inter-chip interconnect
    "TPU v4": Chip(275e12, 32 * GIB, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16 * GIB, 819e9, 200e9),
    "TPU v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v5": Chip(459e12, 95 * GIB, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 32 * GIB, 1640e9, 400e9),
    # SXM boards
    "NVIDIA A100": Chip(312e12, 80 * GIB, 2039e9, None),
    "NVIDIA H100": Chip(989e12, 80 * GIB, 3350e9, None),
    "NVIDIA H200": Chip(989e12, 141 * GIB, 4800e9, None),
}
"""Keys start jax.Device.device_kind."""


def chip(device_kind: str) -> Chip | None:
    """None where it is not known: CPUs."""
    return next((chip for name, chip in CHIPS.items() if device_kind.startswith(name)), None)
