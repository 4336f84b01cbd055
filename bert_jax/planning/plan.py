"""What a run would need on a TPU pod that is not here: its real step, compiled by the TPU's own compiler.

Nothing runs. Memory and collectives are the compiler's; times are a roofline: what the chip's data sheet
allows at best.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.parallel import sharding
from bert_jax.planning.collectives import Collective, collectives
from bert_jax.training.chips import GIB, Chip, chip
from bert_jax.training.fits import check_fits
from bert_jax.training.network import kept_bytes
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import abstract_state, jit_train_step
from data_pipeline.batch import batch_spec
from data_pipeline.errors import UserError

OUT_OF_MEMORY = re.compile(
    r"Used (?P<size>[\d.]+)(?P<unit>[MGT]) of [\d.]+[MGT] hbm|Allocation \(size=(?P<bytes>\d+)\) would exceed"
)
"""In what the TPU's compiler says of a program that is too large."""
LARGEST_ROWS = 4096
"""A chip, where the search for the largest microbatch ends."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one step, for each device."""

    seconds: float
    """Seconds that the compilation took."""
    memory: float
    """Bytes of arguments and temporaries together, or those that it would take and that there are not."""
    temporary: float
    """Bytes."""
    flops: float
    bytes_accessed: float
    collectives: list[Collective]
    fits: bool


@dataclass(frozen=True)
class Plan:
    spec: RunSpec
    topology: str
    slices: int
    devices: int
    chip: Chip
    parameters: float
    """Bytes a device."""
    optimizer: float
    """Bytes a device."""
    compiled: Compiled

    @property
    def rows(self) -> int:
        """Rows of a microbatch, on one device."""
        config = self.spec.config
        ways = self.devices // config.mesh.tensor
        return config.train.global_batch_size // ways // config.train.microbatches

    @property
    def floor(self) -> float:
        """Bytes a device: state, gradients, those of a microbatch beside their sum, what backward must keep.

        For a step without rematerialization.
        """
        spec = self.spec
        copies = 2 if spec.config.train.microbatches > 1 else 1
        a_row = kept_bytes(spec.network, spec.rows, kernel=spec.kernel, tensor=spec.config.mesh.tensor)
        kept = self.rows * a_row
        return self.parameters * (1 + copies) + self.optimizer + kept

    @property
    def seconds(self) -> dict[str, float]:
        """Lower bounds of one step: in products, in reading memory, on the network between the chips."""
        sent = sum(
            c.bytes * c.times * (2 if c.kind == "all-reduce" else 1) for c in self.compiled.collectives
        )
        return {
            "compute": self.spec.step_flops / self.devices / self.chip.flops,
            "memory": self.compiled.bytes_accessed / self.chip.memory_bandwidth,
            "network": sent / self.chip.network_bandwidth if self.chip.network_bandwidth else 0.0,
        }

    @property
    def step_seconds(self) -> float:
        """Products and memory overlap; the reduction comes after them."""
        seconds = self.seconds
        return max(seconds["compute"], seconds["memory"]) + seconds["network"]


def plan(spec: RunSpec, *, topology: str, slices: int = 1, cache: Path) -> Plan:
    """Compiles the training step of a run for a pod.

    Args:
      spec: resolved for the platform "tpu".
      topology: v5e:16x16, v4:8x8x8, v5p:8x8x8, v6e:16x16 and the like.
      cache: a folder for the compiler's answers; the same question is answered from there.

    Raises:
      UserError: libtpu is missing, the topology does not exist, or the config does not fit its devices.
    """
    devices = _devices(topology, slices)
    mesh = sharding.make_mesh(spec.config.mesh, devices=devices)
    check_fits(spec, mesh)
    known = chip(devices[0].device_kind)
    if known is None:
        raise UserError(
            f"nothing is known of the chip {devices[0].device_kind}; add it to bert_jax/training/chips.py"
        )
    state = abstract_state(spec, mesh)
    return Plan(
        spec=spec,
        topology=topology,
        slices=slices,
        devices=len(devices),
        chip=known,
        parameters=_bytes_a_device(state.params),
        optimizer=_bytes_a_device(state.opt_state),
        compiled=_compile(spec, mesh, cache=cache),
    )


def plan_largest_batch(spec: RunSpec, *, topology: str, slices: int = 1, cache: Path) -> Iterator[Plan]:
    """Plans at 1, 2, 4 ... rows a chip without microbatches; the last one that fits has the most."""
    config = spec.config
    devices = len(_devices(topology, slices)) // config.mesh.tensor
    rows = 1
    while rows <= LARGEST_ROWS:
        train = dataclasses.replace(
            config.train,
            global_batch_size=rows * devices,
            microbatches=1,
            batch_ramp=(),
            batch_ramp_steps=0,
        )
        larger = dataclasses.replace(spec, config=dataclasses.replace(config, train=train))
        found = plan(larger, topology=topology, slices=slices, cache=cache)
        yield found
        if not found.compiled.fits:
            break
        rows *= 2


def report(plan: Plan) -> Iterator[str]:
    """The table, line by line."""
    spec, config, compiled = plan.spec, plan.spec.config, plan.compiled
    model = spec.network.model
    gradients = plan.parameters
    where = f"{plan.slices} x {plan.topology}" if plan.slices > 1 else plan.topology
    yield f"{where}: {plan.devices} chips; compiled in {compiled.seconds:.0f} s, not run"
    yield (
        f"{config.train.global_batch_size:,} rows of {config.data.sequence_length} a step, "
        f"{plan.rows} a chip in each of {config.train.microbatches} microbatch(es), "
        f"attention {spec.kernel.NAME}, remat {model.remat}"
    )
    yield ""
    yield f"memory of a chip                {_gib(plan.chip.memory)}"
    yield f"  parameters                    {_gib(plan.parameters)}"
    yield f"  optimizer                     {_gib(plan.optimizer)}"
    if compiled.fits:
        yield f"  gradients                     {_gib(gradients)}"
        yield f"  activations and other         {_gib(compiled.temporary - gradients)}"
    verdict = "fits" if compiled.fits else "DOES NOT FIT"
    yield f"  in all                        {_gib(compiled.memory)}  {verdict}"
    if model.remat == "none" and math.isfinite(compiled.memory):
        ratio = compiled.memory / plan.floor
        yield f"  analytic floor                {_gib(plan.floor)}  {ratio:.2f} of it are taken"
    if not compiled.fits:
        yield "try more --train.microbatches, --model.remat dots or full, or --mesh.fsdp"
        return
    analytic = spec.step_flops
    yield ""
    yield f"products, analytic              {analytic / 1e12:,.1f} TFLOP a step"
    if model.scan_unroll >= model.num_hidden_layers and config.train.microbatches == 1:
        ratio = compiled.flops * plan.devices / analytic
        yield f"  compiled                      {ratio:.3f} of it (kernels are not counted)"
    else:
        yield "  compiled                      unknown: the compiler counts a loop once"
    totals: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for kind, size, times in compiled.collectives:
        totals[kind] = totals[kind][0] + times, totals[kind][1] + size * times
    yield "collectives of a step and chip" + ("" if totals else "  none")
    for kind, (count, size) in sorted(totals.items()):
        yield f"  {kind:29s} {_gib(size)}  {count} times"
    yield ""
    yield "at best, by the chip's data sheet"
    for name, seconds in plan.seconds.items():
        yield f"  {name:29s} {seconds * 1e3:8.1f} ms"
    hours = config.train.hours or plan.step_seconds * spec.steps / 3600
    steps = spec.steps if config.train.hours is None else int(hours * 3600 / plan.step_seconds)
    yield f"  a step                        {plan.step_seconds * 1e3:8.1f} ms"
    yield f"  {steps:,} steps".ljust(32) + f"{hours:8.1f} hours, {hours * plan.devices:,.0f} chip-hours"


def _gib(size: float) -> str:
    return f"{size / GIB:8.3f} GiB" if math.isfinite(size) else "    more than that"


def _devices(topology: str, slices: int) -> list[jax.Device]:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU machine to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor a TPU for one process alone
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on the machine
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise UserError("the TPU's compiler is missing: pip install 'bert-jax[tpu]'") from error
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology {topology} does not exist: {error}") from error
    return list(found.devices)


def _bytes_a_device(tree: Any) -> float:
    leaves = jax.tree.leaves(tree)
    return float(sum(leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _compile(spec: RunSpec, mesh: Mesh, *, cache: Path) -> Compiled:
    import libtpu

    arrays = batch_spec(spec.config.data, rows=spec.config.train.global_batch_size)
    step, state = jit_train_step(spec, mesh, spec.stages[-1]), abstract_state(spec, mesh)
    with jax.set_mesh(mesh):
        lowered = step.lower(state, sharding.abstract_batch(arrays, mesh))
    devices = (
        f"{mesh.devices.flat[0].device_kind} {mesh.devices.shape} {jax.__version__} {libtpu.__version__}"
    )
    path = cache / f"plan-{hashlib.sha256((devices + lowered.as_text()).encode()).hexdigest()[:32]}.json"
    if path.is_file():
        stored = json.loads(path.read_text())
        return Compiled(**stored | {"collectives": [Collective(*entry) for entry in stored["collectives"]]})
    compiled = _ask(lowered)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(dataclasses.asdict(compiled)))
    os.replace(unfinished, path)
    return compiled


def _ask(lowered: Any) -> Compiled:
    start = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - start
        return Compiled(seconds, _memory_wanted(str(error)), 0.0, 0.0, 0.0, [], fits=False)
    memory, cost = program.memory_analysis(), program.cost_analysis()
    return Compiled(
        seconds=time.perf_counter() - start,
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        collectives=collectives(program.as_text()),
        fits=True,
    )


def _memory_wanted(complaint: str) -> float:
    """Bytes that a program needs which does not fit; infinitely many if the compiler does not say."""
    used = OUT_OF_MEMORY.search(complaint)
    if used is None:
        return math.inf
    units = {"M": 2**20, "G": 2**30, "T": 2**40}
    return float(used["bytes"]) if used["bytes"] else float(used["size"]) * units[used["unit"]]
