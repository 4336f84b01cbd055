"""The device mesh, and how arrays lie on it: logical axes -> one rules table -> mesh axes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config import Config, MeshConfig

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    None: None,
}
"""Mesh axis, or axes, of each logical axis. A name that is not here is an error."""


def make_mesh(config: MeshConfig, *, devices: list[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over `devices`, all of them if None.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    others = config.fsdp * config.tensor
    data = len(devices) // others if config.data == -1 else config.data
    if data * others != len(devices):
        raise ValueError(
            f"mesh.data {config.data} x mesh.fsdp {config.fsdp} x mesh.tensor {config.tensor} "
            f"does not cover the {len(devices)} device(s) here"
        )
    return jax.make_mesh(
        (data, config.fsdp, config.tensor),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices,
    )


def check_fits(config: Config, mesh: Mesh) -> None:
    """Raises ValueError, naming the field, if the batch or the model does not divide over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    parts = ways * config.train.microbatches
    if config.train.global_batch_size % parts:
        raise ValueError(
            f"train.global_batch_size {config.train.global_batch_size} is not divisible by {parts} "
            f"(mesh data x fsdp = {ways}, times train.microbatches {config.train.microbatches})"
        )
    model = config.model
    for field, size, axis in (
        ("hidden_size", model.hidden_size, "fsdp"),
        ("num_attention_heads", model.num_attention_heads, "tensor"),
        ("intermediate_size", model.intermediate_size, "tensor"),
        ("vocab_size (to a multiple of 128)", model.padded_vocab_size, "tensor"),
    ):
        if size % mesh.shape[axis]:
            raise ValueError(f"model.{field} {size} is not divisible by mesh.{axis} {mesh.shape[axis]}")


def spec(*logical_axes: str | None) -> P:
    """The partition of an array whose dimensions have these logical axes.

    Raises:
      KeyError: there is no rule for an axis.
      ValueError: two dimensions would lie on one mesh axis.
    """
    partition = [RULES[axis] for axis in logical_axes]
    used = [name for entry in partition if entry for name in ([entry] if isinstance(entry, str) else entry)]
    if len(used) != len(set(used)):
        raise ValueError(f"the logical axes {logical_axes} lie on the mesh axes {used}: one is used twice")
    return P(*partition)


def params_sharding(mesh: Mesh, axes: Any) -> Any:
    """A NamedSharding for each leaf of `axes`, a nested dict of tuples of logical axes."""
    return jax.tree.map(
        lambda names: NamedSharding(mesh, spec(*names)), axes, is_leaf=lambda node: isinstance(node, tuple)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`; every other dimension whole."""
    return NamedSharding(mesh, spec("batch"))


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Pins the layout of an activation, under `jax.set_mesh`; without a mesh, `x` as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*logical_axes))


@functools.cache
def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """The rows of the global batch that this process's devices own, ascending.

    Not always contiguous: on several hosts `jax.make_mesh` orders devices by the wires between them.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = {index[0].indices(batch_size) for index in indices if index is not None}
    return tuple(sorted({row for start, stop, _ in bounds for row in range(start, stop)}))


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh, *, batch_size: int) -> dict[str, jax.Array]:
    """Device arrays of the global batch from the rows `local_rows` of this process."""
    sharding = batch_sharding(mesh)
    rows = local_rows(mesh, batch_size)
    parts = {}
    for device, index in sharding.addressable_devices_indices_map((batch_size,)).items():
        assert index is not None
        start, stop, _ = index[0].indices(batch_size)
        first = rows.index(start)
        parts[device] = slice(first, first + stop - start)

    def on_devices(array: np.ndarray) -> jax.Array:
        pieces = [jax.device_put(array[part], device) for device, part in parts.items()]
        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    return {name: on_devices(array) for name, array in batch.items()}
