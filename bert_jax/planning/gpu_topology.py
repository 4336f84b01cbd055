"""Hosts with NVIDIA GPUs, as XLA's GPU compiler takes them by description, without a GPU.

It comes with the CUDA plugin of JAX. It does not time kernels to choose between them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator

import jax

from bert_jax.parallel import runtime
from bert_jax.parallel.platform import Platform
from bert_jax.planning.gpu_targets import TARGETS, GpuTarget, target_config
from bert_jax.planning.pod import Pod, chip_of
from bert_jax.training.chips import GIB
from data_pipeline.errors import UserError

EXAMPLES = f"h100:4x8 (hosts x GPUs a host; {', '.join(TARGETS)})"

TOPOLOGY = re.compile(r"(?P<gpu>[\w\-]+):(?:(?P<hosts>[1-9]\d*)x)?(?P<gpus>[1-9]\d*)")

MEMORY_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def takes(topology: str) -> bool:
    return topology.partition(":")[0] in TARGETS


def pod(topology: str, *, slices: int) -> Pod:
    """The GPUs of h100:4x8, four hosts with eight each, or of h100:8, one host.

    Raises:
      UserError: the plugin is missing, the topology cannot be read, or slices are asked for.
    """
    shape = TOPOLOGY.fullmatch(topology)
    if shape is None:
        raise UserError(f"--topology {topology} does not exist: it is GPU:HOSTSxGPUS, such as {EXAMPLES}")
    if slices > 1:
        raise UserError(f"--slices {slices} is for TPUs; --topology counts hosts of GPUs, as in h100:4x8")
    target, hosts = TARGETS[shape["gpu"]], int(shape["hosts"] or 1)
    # Read once, when the compiler is loaded. The run has the others too; the first is for want of a GPU.
    runtime.set_xla_flags({"--xla_gpu_autotune_level": "0", **runtime.XLA_FLAGS})
    plugin, cudnn, cuda = _plugin()
    from jax.experimental import topologies

    description = target_config(target, cudnn=cudnn, cuda=cuda)
    found = topologies.get_topology_desc(
        platform="cuda", target_config=description, topology=f"1x{hosts}x{shape['gpus']}"
    )
    devices = list(found.devices)
    fraction = memory_fraction()
    return Pod(
        name=topology,
        platform=platform_of(target),
        devices=devices,
        chip=chip_of(devices[0]),
        memory=fraction * target.memory,
        memory_rule=f"{fraction} ({MEMORY_FRACTION}) of the driver's {target.memory / GIB:.1f} GiB",
        host_of=lambda device: device.process_index,
        hosts_are="hosts",
        links="NVLink" if shape["gpu"] != "l4" else "PCIe",
        compiler=f"{description} jax {jax.__version__} plugin {plugin}",
        compiling=lambda: as_if_here(target),
    )


def platform_of(target: GpuTarget) -> Platform:
    """What decides which attention kernel a run on it has."""
    return Platform("cuda", float("{}.{}".format(*target.capability)))


def memory_fraction() -> float:
    """The part of a GPU's memory that a run takes; raises UserError if the environment names none."""
    given = os.environ.get(MEMORY_FRACTION) or runtime.GPU_MEMORY
    with contextlib.suppress(ValueError):
        if 0 < float(given) <= 1:
            return float(given)
    raise UserError(
        f"{MEMORY_FRACTION} is {given!r}; it must be a number above 0 and at most 1, such as "
        f"{runtime.GPU_MEMORY}"
    )


def _plugin() -> tuple[str, int, int]:
    """Versions of the CUDA plugin, of cuDNN and of the CUDA runtime; the libraries are loaded."""
    for name in ("jax_cuda13_plugin", "jax_cuda12_plugin"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{name}.cuda_plugin_extension")
            version = importlib.import_module(f"{name}.version").__version__
            break
    else:
        raise UserError("the GPU's compiler is missing: pip install 'bert-jax[cuda]'")
    from jax._src.lib import cuda_versions

    jax.devices()  # of whatever platform: with the first plugin NVIDIA's libraries are loaded
    assert cuda_versions is not None, "it is a part of the plugin"
    return version, cuda_versions.cudnn_get_version(), cuda_versions.cuda_runtime_get_version()


@contextlib.contextmanager
def as_if_here(target: GpuTarget) -> Iterator[None]:
    """JAX asks the GPU of this process what cuDNN's attention can do on it; here the target answers."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    def version(capability: str) -> tuple[int, ...]:
        return tuple(int(part) for part in capability.split("."))

    asked = cudnn.check_compute_capability, cudnn.is_cuda_compute_capability_equal
    cudnn.check_compute_capability = lambda capability: target.capability >= version(capability)
    cudnn.is_cuda_compute_capability_equal = lambda capability: target.capability == version(capability)
    try:
        yield
    finally:
        cudnn.check_compute_capability, cudnn.is_cuda_compute_capability_equal = asked
