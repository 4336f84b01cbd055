"""The device mesh, and how arrays lie on it: logical axes -> one rules table -> mesh axes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.config import MeshConfig
from data_pipeline.errors import UserError

RULES: dict[str | None, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "layers": (),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "parts": (),
    "labels": (),
    None: (),
}
"""Mesh axes of each logical axis. A name that is not here is an error."""


def make_mesh(config: MeshConfig, *, devices: list[jax.Device] | None = None) -> Mesh:
    """A (data, fsdp, tensor) mesh over `devices`, all of them if None.

    Several TPU slices share the batch along `data`: only that axis crosses the network between them.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    others = config.fsdp * config.tensor
    data = len(devices) // others if config.data == -1 else config.data
    if data * others != len(devices):
        raise UserError(
            f"mesh.data {config.data} x mesh.fsdp {config.fsdp} x mesh.tensor {config.tensor} "
            f"does not cover the {len(devices)} device(s) that there are"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and devices[0].platform == "tpu":
        if data % slices:
            raise UserError(f"mesh.data {data} is not divisible by the {slices} TPU slices")
        laid = mesh_utils.create_hybrid_device_mesh(
            (data // slices, config.fsdp, config.tensor), (slices, 1, 1), devices
        )
        return Mesh(laid, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    return jax.make_mesh(
        (data, config.fsdp, config.tensor),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices,
    )


def spec(*logical_axes: str | None, only: Collection[str] = ("data", "fsdp", "tensor")) -> P:
    """The partition of an array whose dimensions have these logical axes, over the mesh axes in `only`.

    Raises:
      KeyError: there is no rule for an axis.
      UserError: two dimensions would lie on one mesh axis.
    """
    partition = [tuple(name for name in RULES[axis] if name in only) for axis in logical_axes]
    used = [name for names in partition for name in names]
    if len(used) != len(set(used)):
        raise ValueError(f"the logical axes {logical_axes} lie on the mesh axes {used}: one is used twice")
    return P(*(names[0] if len(names) == 1 else names or None for names in partition))


def named(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """The sharding of an array whose dimensions have these logical axes; raises as `spec` does."""
    return NamedSharding(mesh, spec(*logical_axes))


def of_parameter(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    """As `named`, but vectors are whole along `fsdp`: to gather them would take longer than to keep them."""
    is_vector = sum(axis != "layers" for axis in logical_axes) < 2
    return NamedSharding(mesh, spec(*logical_axes, only=("data", "tensor") if is_vector else mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`; every other dimension whole."""
    return named(mesh, "batch")


def abstract_batch(
    spec: dict[str, tuple[tuple[int, ...], type[np.generic]]], mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch of `data_pipeline.batch.batch_spec` on the mesh, without its memory."""
    where = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for name, (shape, dtype) in spec.items()}


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Pins the layout of an activation, under `jax.set_mesh`; without a mesh, `x` as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    left = set(mesh.axis_names) - set(mesh.manual_axes)  # along the others it is cut already
    if not left:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*logical_axes, only=left))


def sum_over_data(
    function: Callable[[Any, Any, Any], tuple[Any, Any]], *, dtype: str, manual_axes: bool, early: Any
) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """`function(params, batch, rows)` on each device's part of the batch, along the mesh axis `data`, and the
    sum of what they return.

    The other axes stay with the compiler. With one device along `data`, `function` as it is, and so where one
    axis cannot be cut by hand and another left: with a mesh axis `tensor` (XLA fails to look up rows of a
    vocabulary that lies on several devices), or with `fsdp` and a Pallas kernel. The compiler then reduces
    where it sees fit.

    Args:
      function: returns gradients and metrics; sums over rows, both.
      dtype: in which the gradients cross the network.
      manual_axes: `function` has a part of its own that cuts mesh axes by hand, such as a Pallas kernel.
      early: whether `sum_gradient` sums gradients in the backward pass, in a tree like theirs or a prefix of
        it; the others are summed once at its end.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["data"] == 1:
        return function
    if mesh.shape["tensor"] > 1 or (mesh.shape["fsdp"] > 1 and manual_axes):
        return function

    def local(params: Any, batch: Any, rows: Any) -> tuple[Any, Any]:
        if any(jax.tree.leaves(early)):
            with _summing_early(dtype):
                gradients, metrics = function(params, batch, rows)
        else:
            gradients, metrics = function(params, batch, rows)
        done = jax.tree.broadcast(early, gradients)
        gradients = jax.tree.map(lambda x, done: x if done else _summed(x, dtype), gradients, done)
        return gradients, jax.lax.psum(metrics, "data")

    return jax.shard_map(
        local,
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
        axis_names={"data"} | {name for name, size in mesh.shape.items() if size == 1},
        check_vma=False,
    )


@dataclass
class _Early:
    """What is asked of `sum_gradient` while a function is traced."""

    dtype: str
    called: bool = False


_early: ContextVar[_Early | None] = ContextVar("early", default=None)


@contextmanager
def _summing_early(dtype: str) -> Iterator[None]:
    token = _early.set(asked := _Early(dtype))
    try:
        yield
        assert asked.called, "an encoder has stacked layers and does not call sum_gradient"
    finally:
        _early.reset(token)


def sum_gradient(params: Any) -> Any:
    """`params`, whose gradient is summed over the devices as soon as the backward pass has it.

    To be called on the parameters of each layer where they are used: the reduction of one layer then goes on
    beside the backward pass through the layers before it (Li et al. 2020, arXiv 2006.15704, section 3.2).
    Unless `sum_over_data` asks for it, nothing happens.
    """
    asked = _early.get()
    if asked is None:
        return params
    asked.called = True
    return jax.tree.map(functools.partial(_sum_cotangent, asked.dtype), params)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_cotangent(dtype: str, x: jax.Array) -> jax.Array:
    return x


_sum_cotangent.defvjp(lambda dtype, x: (x, None), lambda dtype, _, cotangent: (_summed(cotangent, dtype),))


def _summed(x: jax.Array, dtype: str) -> jax.Array:
    return jax.lax.psum(x.astype(dtype), "data").astype(x.dtype)


@functools.cache
def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """The rows of the global batch that this process's devices own, ascending.

    Not always contiguous: on several hosts `jax.make_mesh` orders devices by the wires between them.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = {index[0].indices(batch_size) for index in indices if index is not None}
    return tuple(sorted({row for start, stop, _ in bounds for row in range(start, stop)}))


def scalar(value: float, mesh: Mesh) -> jax.Array:
    """A float32 that every process has, on every device."""
    number = np.float32(value)
    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback((), replicated(mesh), lambda _: number)


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh, *, batch_size: int) -> dict[str, jax.Array]:
    """Device arrays of the global batch from the rows `local_rows` of this process, in one transfer."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    place = {row: index for index, row in enumerate(local_rows(mesh, batch_size))}

    def on_devices(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return array[place[start] : place[start] + stop - start]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    return {name: on_devices(array) for name, array in batch.items()}
