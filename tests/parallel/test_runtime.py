"""Settings of the process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT


def run(program: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={"JAX_PLATFORMS": "cpu", "PATH": "", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "cpu_aot_loader" not in found.stderr, "XLA's false alarm about its own cached programs"
    return found.stdout


CONFIGURE = """
import os
from pathlib import Path
from bert_jax.parallel.runtime import configure
configure(cache=Path("runs/compiled"))
import jax, numpy as np
"""


def test_the_environment_comes_first(tmp_path: Path):
    show = (
        CONFIGURE
        + 'print(os.environ["XLA_FLAGS"]); print(jax.config.jax_compilation_cache_dir); \
print(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"])'
    )
    flags, cache, memory = run(show).splitlines()
    assert memory == "0.9"
    assert flags == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert Path(cache).is_absolute()
    assert cache.endswith("runs/compiled")
    given = "--xla_cpu_enable_fast_math=false --xla_gpu_enable_latency_hiding_scheduler=false"
    environment = {"XLA_FLAGS": given, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    flags, cache, memory = run(show, XLA_PYTHON_CLIENT_MEM_FRACTION="0.5", **environment).splitlines()
    assert memory == "0.5"
    assert flags == given
    assert cache == str(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_not_cleared_again():
    """Of a program with two arrays of 40 MB on the way, run ten times; it takes the heap some to settle."""
    work = """
import jax, resource
import jax.numpy as jnp
program = jax.jit(lambda x: jax.lax.cumsum(jax.lax.optimization_barrier(jnp.sin(x)), axis=1).sum())
x = jnp.ones((100, 100_000))
for runs in (40, 10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(runs):
        program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept, cleared = int(run(CONFIGURE + work)), int(run(work))
    assert cleared > 100_000
    assert kept < cleared / 4


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_of_steps_of_several_shapes_does_not_add_up():
    """Two steps on their way, and small arrays that stay and come to lie between large ones."""
    work = """
import jax.numpy as jnp
from bert_jax.parallel.runtime import keep_freed_memory
keep_freed_memory({keep})
program = jax.jit(lambda x: jax.lax.cumsum(jax.lax.optimization_barrier(jnp.sin(x)), axis=1).sum())
kept = []
for rows in np.random.default_rng(0).choice([100, 120, 140, 160], 32):
    x = jnp.ones((rows, 100_000))
    sums = program(x), kept.append(np.ones(100_000)), program(x), kept.append(np.ones(100_000))
    jax.block_until_ready(sums)
status = Path("/proc/self/status").read_text()  # that of getrusage is the parent's, where that is larger
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""
    kept, given_back = (int(run(CONFIGURE + work.format(keep=keep))) for keep in (True, False))
    assert given_back < 0.8 * kept


@pytest.mark.long
def test_compiled_programs_are_found_again(tmp_path: Path):
    """In the folder that `configure` is given."""
    program = (
        CONFIGURE.replace("runs/compiled", str(tmp_path))
        + """
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("/cache_hits")))
jax.jit(lambda x: x * 2 + 1)(np.ones(3)).block_until_ready()
print(any(hits))
"""
    )
    assert run(program).split() == ["False"]
    assert run(program).split() == ["True"]
