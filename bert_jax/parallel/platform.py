"""The kind of device that a program is compiled for."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Platform(NamedTuple):
    name: str
    """"cpu", "tpu", "cuda" or "rocm"."""
    capability: float | None = None
    """CUDA compute capability, such as 9.0; None elsewhere."""


def local_platform() -> Platform:
    """The platform of this process's devices."""
    device = jax.local_devices()[0]
    if device.platform not in ("gpu", "cuda", "rocm"):
        return Platform(device.platform)
    if "rocm" in device.client.platform_version.lower():
        return Platform("rocm")
    return Platform("cuda", float(device.compute_capability))
