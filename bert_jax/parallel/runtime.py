"""Settings of the process, not of the run: compiler flags by platform, the compilation cache, memory.

None of them changes what is computed. A flag that the environment already sets stays as it is.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

XLA_FLAGS = {
    # Hides the reduction of gradients behind the backward pass; XLA's default on TPU, but not on GPU.
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
}
"""Read by every platform's compiler from the environment; a flag for a GPU means nothing elsewhere."""

GPU_MEMORY = "0.9"
"""The part of a GPU's memory that JAX takes at the start. Its own default, 0.75, leaves 20 GB of an H100
unused; NCCL's buffers, cuDNN and CUDA itself need some of it (MaxText takes 0.85 to 0.94)."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of glibc's mallopt(3)."""

LARGE = 32 * 2**20
"""Bytes of a block that has a mapping of its own, at most: where glibc gets by itself unless it is told."""


def configure(*, cache: Path) -> None:
    """Applies the settings and joins the other processes of the run. To be called before JAX is imported.

    Args:
      cache: folder for compiled programs, so that a resumed run does not compile again. The variable
        JAX_COMPILATION_CACHE_DIR comes first.
    """
    keep_freed_memory(True)  # a thread that is older has a heap of its own, and NumPy and JAX start some
    import jax

    from bert_jax.parallel import processes

    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", GPU_MEMORY)
    set_xla_flags(XLA_FLAGS)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache.absolute()))
    processes.initialize()
    if jax.default_backend() != "cpu":
        keep_freed_memory(False)
    else:
        # XLA prints pages of alarm for each cached program: it misses in the processor what are only
        # preferences of its own ("prefer-no-gather", openxla/xla issue 44565). What fails raises as well.
        jax.config.update("jax_logging_level", "CRITICAL")


def set_xla_flags(flags: dict[str, str]) -> None:
    """Adds those that are not there to the environment, for the compilers that are loaded later."""
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"{name}={value}" for name, value in flags.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def keep_freed_memory(keep: bool) -> None:
    """Lets the C library keep what is freed, for the next step; or gives it its own ways back.

    XLA on CPU allocates the step's temporary memory anew each time, and the kernel clears each page of it: a
    tenth of a step at 4 layers of 256, 32 rows of 128 (230,000 page faults; none with this). Other platforms
    have no such steps, and threads that had better not share a heap. Nor is it for steps of several shapes:
    what one leaves does not hold the next one, and other things come to lie in it, so that all of them add up
    (6 layers of 384, 64 rows of 96 to 128: 11 GiB in place of 2.8, for a step that is 4 % faster).
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc; elsewhere it is only slower
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_MMAP_MAX, 0 if keep else 65536)  # not from a mapping that free() would undo
        library.mallopt(M_TRIM_THRESHOLD, -1 if keep else 2 * LARGE)  # a heap never shrinks
        library.mallopt(M_ARENA_MAX, 1 if keep else 0)  # one for all threads: others are too small
