"""What XLA's GPU compiler must know of a GPU that is not here.

The numbers are those that the CUDA driver reports, from XLA's own descriptions
(github.com/openxla/xla, xla/backends/gpu/target_config/specs), but for two: of the H200 the memory is what
PyTorch reports, 139.8 GiB, as XLA has the data sheet's there; the L4 is not among them, and its numbers are
those of CUDA's deviceQuery and of the CUDA programming guide for compute capability 8.9.
"""

from __future__ import annotations

from typing import NamedTuple


class GpuTarget(NamedTuple):
    device_kind: str
    """As jax.Device has it."""
    capability: tuple[int, int]
    """CUDA compute capability."""
    memory: int
    """Bytes that the driver reports: a little less than the data sheet's."""
    memory_bandwidth: int
    """Bytes a second."""
    cores: int
    """Streaming multiprocessors."""
    fpus: int
    """In a core."""
    threads: int
    """That a core holds at once."""
    shared_memory: int
    """Bytes of a core."""
    shared_memory_of_block: int
    """Bytes that one block may ask for."""
    l2_cache: int
    """Bytes."""
    clock: float
    """GHz."""


A100 = GpuTarget(
    device_kind="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    memory=85_100_068_864,
    memory_bandwidth=2_039_040_000_000,
    cores=108,
    fpus=64,
    threads=2048,
    shared_memory=167_936,
    shared_memory_of_block=166_912,
    l2_cache=41_943_040,
    clock=1.41,
)
H100 = GpuTarget(
    device_kind="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    memory=84_942_979_072,
    memory_bandwidth=3_352_320_000_000,
    cores=132,
    fpus=128,
    threads=2048,
    shared_memory=233_472,
    shared_memory_of_block=232_448,
    l2_cache=52_428_800,
    clock=1.98,
)
TARGETS = {
    "h100": H100,
    "h200": H100._replace(
        device_kind="NVIDIA H200", memory=150_109_000_000, memory_bandwidth=4_800_000_000_000
    ),
    "a100": A100,
    "a100-40g": A100._replace(
        device_kind="NVIDIA A100-SXM4-40GB", memory=42_331_013_120, memory_bandwidth=1_555_200_000_000
    ),
    "b200": H100._replace(
        device_kind="NVIDIA B200",
        capability=(10, 0),
        memory=191_514_411_008,
        memory_bandwidth=7_672_320_000_000,
        cores=148,
        l2_cache=132_644_864,
        clock=1.965,
    ),
    "l4": GpuTarget(
        device_kind="NVIDIA L4",
        capability=(8, 9),
        memory=22_574 * 2**20,
        memory_bandwidth=300_000_000_000,
        cores=58,
        fpus=128,
        threads=1536,
        shared_memory=102_400,
        shared_memory_of_block=101_376,
        l2_cache=50_331_648,
        clock=2.04,
    ),
}
"""Keys are what `--topology` calls them."""


def target_config(target: GpuTarget, *, cudnn: int, cuda: int) -> str:
    """XLA's description of a GPU: a GpuTargetConfigProto as text.

    Args:
      cudnn: version, as cuDNN says it itself: 90800 is 9.8.0.
      cuda: version of the runtime, as it says it itself: 12080 is 12.8.
    """
    major, minor = target.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {target.shared_memory}
  threads_per_core_limit: {target.threads}
  core_count: {target.cores}
  fpus_per_core: {target.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {target.memory_bandwidth}
  l2_cache_size: {target.l2_cache}
  clock_rate_ghz: {target.clock}
  device_memory_size: {target.memory}
  shared_memory_per_block_optin: {target.shared_memory_of_block}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn // 10000} minor: {cudnn // 100 % 100} patch: {cudnn % 100} }}
runtime_version {{ major: {cuda // 1000} minor: {cuda // 10 % 100} patch: 0 }}
device_description_str: "{target.device_kind}"
"""
