"""Devices that are not here, with the compiler for them that is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax

from bert_jax.parallel.platform import Platform
from bert_jax.training.chips import Chip, chip
from data_pipeline.errors import UserError


class Pod(NamedTuple):
    """A pod of TPUs, or hosts with GPUs: all in which the two differ for a plan."""

    name: str
    """As it was asked for: v5e:16x16, h100:4x8."""
    platform: Platform
    devices: list[jax.Device]
    chip: Chip
    memory: float
    """Bytes of a chip that a program may take."""
    memory_rule: str
    """Where that comes from, for the report."""
    host_of: Callable[[jax.Device], int]
    """Devices with the same number have the chip's fast links between them."""
    hosts_are: str
    """What these numbers count: hosts, or slices of TPUs."""
    links: str
    """What the fast links are called."""
    compiler: str
    """Versions and target: with another one its answers may be others."""
    compiling: Callable[[], AbstractContextManager[None]]
    """Is entered around lowering and compiling."""


def chip_of(device: jax.Device) -> Chip:
    """The chip of a device; raises UserError if nothing is known of it."""
    known = chip(device.device_kind)
    if known is None:
        raise UserError(
            f"nothing is known of the chip {device.device_kind}; add it to bert_jax/training/chips.py"
        )
    return known
