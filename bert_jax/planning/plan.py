"""What a run would need on devices that are not here: its real step, compiled by their own compiler.

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
from bert_jax.planning import custom_calls, gpu_topology, tpu_topology
from bert_jax.planning.collectives import Collective, collectives
from bert_jax.planning.pod import Pod
from bert_jax.training.chips import GIB
from bert_jax.training.fits import check_fits
from bert_jax.training.network import kept_bytes
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import abstract_constants, abstract_state, jit_train_step
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
    flops: float | None
    """None where the compiler does not count them: the GPU's."""
    bytes_accessed: float | None
    """Bytes; None where the compiler does not count them."""
    collectives: list[Collective]
    custom_calls: dict[str, int]
    """Name -> calls in a step."""
    refused: bool
    """By the TPU's compiler, for want of memory. The GPU's refuses nothing."""


@dataclass(frozen=True)
class Plan:
    spec: RunSpec
    pod: Pod
    parameters: float
    """Bytes a device."""
    optimizer: float
    """Bytes a device."""
    compiled: Compiled
    teacher: float = 0.0
    """Bytes a device of its parameters; 0 without one."""

    @property
    def devices(self) -> int:
        return len(self.pod.devices)

    @property
    def fits(self) -> bool:
        return not self.compiled.refused and self.compiled.memory <= self.pod.memory

    @property
    def rows(self) -> int:
        """Rows of a microbatch, on one device."""
        config = self.spec.config
        ways = self.devices // config.mesh.tensor
        return config.train.global_batch_size // ways // config.train.microbatches

    @property
    def floor(self) -> float:
        """Bytes a device: state, a teacher, gradients, those of a microbatch beside their sum, what backward
        must keep.

        For a step without rematerialization.
        """
        spec = self.spec
        copies = 2 if spec.config.train.microbatches > 1 else 1
        a_row = kept_bytes(spec.network, spec.rows, kernels=spec.kernels, tensor=spec.config.mesh.tensor)
        kept = self.rows * a_row
        return self.parameters * (1 + copies) + self.optimizer + self.teacher + kept

    @property
    def seconds(self) -> dict[str, float]:
        """Lower bounds of one step: in products, in reading memory, on each network between the chips."""
        chip, compiled = self.pod.chip, self.compiled
        inside, outside = (sum(c.sent[i] * c.times for c in compiled.collectives) for i in range(2))
        found = {"compute": self.spec.step_flops / self.devices / chip.flops}
        if compiled.bytes_accessed is not None:
            found["memory"] = compiled.bytes_accessed / chip.memory_bandwidth
        if chip.between_hosts is None:
            return found | {self.pod.links: (inside + outside) / chip.network_bandwidth}
        found[self.pod.links] = inside / chip.network_bandwidth
        if outside:
            found["network"] = outside / chip.between_hosts
        return found

    @property
    def step_seconds(self) -> float:
        """Products and memory overlap; the reduction comes after them, on both networks at once."""
        seconds = self.seconds
        on_chip = {name: value for name, value in seconds.items() if name in ("compute", "memory")}
        return max(on_chip.values()) + max(v for name, v in seconds.items() if name not in on_chip)


def find_pod(topology: str, *, slices: int = 1) -> Pod:
    """The devices of a topology such as v5e:16x16 or h100:4x8, which need not be here.

    Raises:
      UserError: it does not exist, or its compiler is missing.
    """
    kinds = (tpu_topology, gpu_topology)
    for kind in kinds:
        if kind.takes(topology):
            return kind.pod(topology, slices=slices)
    examples = "; ".join(kind.EXAMPLES for kind in kinds)
    raise UserError(f"--topology {topology} does not exist; there are {examples}")


def plan(spec: RunSpec, pod: Pod, *, cache: Path) -> Plan:
    """Compiles the training step of a run for a pod.

    Args:
      spec: resolved for the platform of the pod.
      cache: a folder for the compiler's answers; the same question is answered from there.

    Raises:
      UserError: the config does not fit the devices of the pod.
    """
    mesh = sharding.make_mesh(spec.config.mesh, devices=pod.devices)
    check_fits(spec, mesh)
    state = abstract_state(spec, mesh)
    return Plan(
        spec=spec,
        pod=pod,
        parameters=_bytes_a_device(state.params),
        optimizer=_bytes_a_device(state.opt_state),
        teacher=_bytes_a_device(abstract_constants(spec, mesh)),
        compiled=_compile(spec, pod, mesh, cache=cache),
    )


def plan_largest_batch(spec: RunSpec, pod: Pod, *, cache: Path) -> Iterator[Plan]:
    """Plans at 1, 2, 4 ... rows a chip without microbatches; the last one that fits has the most."""
    config = spec.config
    devices = len(pod.devices) // config.mesh.tensor
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
        found = plan(larger, pod, cache=cache)
        yield found
        if not found.fits:
            break
        rows *= 2


def report(plan: Plan) -> Iterator[str]:
    """The table, line by line."""
    spec, config, compiled, pod = plan.spec, plan.spec.config, plan.compiled, plan.pod
    model = spec.network.model
    gradients = plan.parameters
    yield f"{pod.name}: {plan.devices} chips; compiled in {compiled.seconds:.0f} s, not run"
    yield (
        f"{config.train.global_batch_size:,} rows of {config.data.sequence_length} a step, "
        f"{plan.rows} a chip in each of {config.train.microbatches} microbatch(es), "
        f"{model.dtype}, attention {spec.kernels.names}, remat {model.remat}"
    )
    layers = model.num_hidden_layers
    has_loops = model.scan_unroll < layers or config.train.microbatches > 1
    yield (
        f"layers scanned, which compiles fast (--model.scan-unroll {layers}: unrolled)"
        if model.scan_unroll == 1
        else f"layers unrolled by {min(model.scan_unroll, layers)} (model.scan_unroll)"
    )
    yield ""
    yield f"memory of a chip                {_gib(pod.chip.memory)}"
    yield f"  for the program               {_gib(pod.memory)}  {pod.memory_rule}"
    yield f"  parameters                    {_gib(plan.parameters)}"
    yield f"  optimizer                     {_gib(plan.optimizer)}"
    if plan.teacher:
        yield f"  teacher                       {_gib(plan.teacher)}"
    if not compiled.refused:
        yield f"  gradients                     {_gib(gradients)}"
        yield f"  activations and other         {_gib(compiled.temporary - gradients)}"
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    yield f"  in all                        {_gib(compiled.memory)}  {verdict}"
    if model.remat == "none" and math.isfinite(compiled.memory):
        ratio = compiled.memory / plan.floor
        yield f"  analytic floor                {_gib(plan.floor)}  {ratio:.2f} of it are taken"
    if not plan.fits:
        yield "try more --train.microbatches, --model.remat dots or full, or --mesh.fsdp"
        return
    yield from custom_calls.report(compiled.custom_calls)
    analytic = spec.step_flops
    yield ""
    yield f"products, analytic              {analytic / 1e12:,.1f} TFLOP a step"
    if compiled.flops is None:
        yield "  compiled                      unknown: the GPU's compiler does not count"
    elif not has_loops:
        ratio = compiled.flops * plan.devices / analytic
        yield f"  compiled                      {ratio:.3f} of it (kernels are not counted)"
    else:
        yield "  compiled                      unknown: the compiler counts a loop once"
    yield from _collectives(plan)
    yield ""
    slower = "" if model.dtype == "bfloat16" else f", which is for bfloat16: {model.dtype} takes longer"
    yield f"at best, by the chip's data sheet{slower}"
    for name, seconds in plan.seconds.items():
        note = "  or more: the compiler counts a loop once" if name == "memory" and has_loops else ""
        yield f"  {name:29s} {seconds * 1e3:8.1f} ms{note}"
    if "memory" not in plan.seconds:
        yield "  memory                        unknown: the GPU's compiler does not count"
    hours = config.train.hours or plan.step_seconds * spec.whole_steps / 3600
    steps = spec.steps if config.train.hours is None else int(hours * 3600 / plan.step_seconds)
    yield f"  a step                        {plan.step_seconds * 1e3:8.1f} ms"
    yield f"  {steps:,} steps".ljust(32) + f"{hours:8.1f} hours, {hours * plan.devices:,.0f} chip-hours"


def _collectives(plan: Plan) -> Iterator[str]:
    """What is sent, by kind and by whether a group lies on one host."""
    totals: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for c in plan.compiled.collectives:
        where = f"over {c.hosts} {plan.pod.hosts_are}" if c.hosts > 1 else ""
        name = f"{c.kind} {where}".strip()
        totals[name] = totals[name][0] + c.times, totals[name][1] + c.bytes * c.times
    yield "collectives of a step and chip" + ("" if totals else "  none")
    for name, (count, size) in sorted(totals.items()):
        yield f"  {name:29s} {_gib(size)}  {count} times"


def _gib(size: float) -> str:
    return f"{size / GIB:8.3f} GiB" if math.isfinite(size) else "    more than that"


def _bytes_a_device(tree: Any) -> float:
    leaves = jax.tree.leaves(tree)
    return float(sum(leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _compile(spec: RunSpec, pod: Pod, mesh: Mesh, *, cache: Path) -> Compiled:
    arrays = batch_spec(spec.config.data, rows=spec.config.train.global_batch_size)
    step, state = jit_train_step(spec, mesh, spec.stages[-1]), abstract_state(spec, mesh)
    with pod.compiling():
        with jax.set_mesh(mesh):
            batch = sharding.abstract_batch(arrays, mesh)
            lowered = step.lower(state, batch, abstract_constants(spec, mesh))
        hosts = [pod.host_of(device) for device in mesh.devices.flat]
        question = (
            f"{pod.compiler} {os.environ.get('XLA_FLAGS')} {mesh.devices.shape} {hosts} {lowered.as_text()}"
        )
        path = cache / f"plan-{hashlib.sha256(question.encode()).hexdigest()[:32]}.json"
        if (stored := read_answer(path)) is not None:
            return stored
        compiled = _ask(lowered, hosts=hosts)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(dataclasses.asdict(compiled)))
    os.replace(unfinished, path)
    return compiled


def read_answer(path: Path) -> Compiled | None:
    """The answer that is kept there; None: there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
        return Compiled(**stored | {"collectives": [Collective(*entry) for entry in stored["collectives"]]})
    except (ValueError, TypeError, KeyError):
        return None


def _ask(lowered: Any, *, hosts: list[int]) -> Compiled:
    start = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - start
        return Compiled(seconds, _memory_wanted(str(error)), 0.0, None, None, [], {}, refused=True)
    memory, cost, text = program.memory_analysis(), program.cost_analysis() or {}, program.as_text()
    return Compiled(
        seconds=time.perf_counter() - start,
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
        collectives=collectives(text, hosts=hosts),
        custom_calls=custom_calls.custom_calls(text),
        refused=False,
    )


def _memory_wanted(complaint: str) -> float:
    """Bytes that a program needs which does not fit; infinitely many if the compiler does not say."""
    used = OUT_OF_MEMORY.search(complaint)
    if used is None:
        return math.inf
    units = {"M": 2**20, "G": 2**30, "T": 2**40}
    return float(used["bytes"]) if used["bytes"] else float(used["size"]) * units[used["unit"]]
