"""The plan of hosts with GPUs: XLA's GPU compiler, on a machine without a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bert_jax.config import Config, MaskingConfig
from bert_jax.planning import gpu_topology
from bert_jax.planning import plan as planning
from bert_jax.planning.gpu_targets import TARGETS, target_config
from bert_jax.planning.gpu_topology import TOPOLOGY
from bert_jax.planning.plan import Compiled, Plan, report
from bert_jax.planning.pod import Pod
from bert_jax.training.chips import chip
from bert_jax.training.run_spec import RunSpec
from bert_jax.training.step import init_state
from data_pipeline.errors import UserError
from tests.helpers.configs import replace, spec_of
from tests.helpers.paths import ROOT
from tests.helpers.plans import asked

has_plugin = any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))
needs_plugin = pytest.mark.skipif(
    not has_plugin, reason="needs the GPU's compiler: pip install 'bert-jax[cuda]'"
)


@pytest.fixture(scope="module")
def packed(config: Config) -> Config:
    """Packed rows for cuDNN; layers scanned."""
    data = dataclasses.replace(config.data, masking=MaskingConfig(max_predictions=12))
    config = dataclasses.replace(config, data=data)
    return replace(
        config,
        model__dtype="bfloat16",
        model__attention_probs_dropout_prob=0.0,
        train__global_batch_size=32,
    )


def pod_of(name: str, *, memory: float) -> Pod:
    """Without its compiler."""
    target = TARGETS[name.partition(":")[0]]
    known = chip(target.device_kind)
    assert known is not None
    return Pod(
        name=name,
        platform=gpu_topology.platform_of(target),
        devices=jax.devices(),
        chip=known,
        memory=memory,
        memory_rule="0.75 of it",
        host_of=lambda device: device.id // 4,
        hosts_are="hosts",
        links="NVLink",
        compiler="",
        compiling=lambda: gpu_topology.as_if_here(target),
    )


@pytest.mark.parametrize(
    ("name", "hosts", "gpus"), [("h100:4x8", "4", "8"), ("h100:8", None, "8"), ("a100-40g:2x4", "2", "4")]
)
def test_a_topology_is_hosts_and_gpus(name: str, hosts: str | None, gpus: str):
    shape = TOPOLOGY.fullmatch(name)
    assert shape is not None
    assert (shape["hosts"], shape["gpus"]) == (hosts, gpus)
    assert gpu_topology.takes(name)


def test_every_target_is_a_chip_with_a_little_less_memory():
    for name, target in TARGETS.items():
        known = chip(target.device_kind)
        assert known is not None, name
        assert 0.9 * known.memory < target.memory < known.memory
        assert known.memory_bandwidth == pytest.approx(target.memory_bandwidth, rel=0.05)
        assert known.between_hosts is not None
    text = target_config(TARGETS["l4"], cudnn=92801, cuda=12090)
    for part in ("major: 8 minor: 9 }", "major: 9 minor: 28 patch: 1", "major: 12 minor: 9 patch: 0"):
        assert part in text


def test_memory_is_compared_here_as_the_compiler_refuses_nothing(packed: Config):
    compiled = Compiled(1.0, 50e9, 40e9, None, None, [], {"__cudnn$fmhaSoftmax": 2}, refused=False)
    spec = spec_of(packed, platform=gpu_topology.platform_of(TARGETS["h100"]))
    assert spec.kernels.names == "cudnn"
    enough = Plan(spec, pod_of("h100:2x4", memory=60e9), 1e9, 2e9, compiled)
    little = Plan(spec, pod_of("h100:2x4", memory=49e9), 1e9, 2e9, compiled)
    assert enough.fits
    assert not little.fits
    text = "\n".join(report(enough))
    for part in (
        "fits",
        "fused attention: __cudnn$fmhaSoftmax x2",
        "unknown: the GPU's compiler does not count",
    ):
        assert part in text
    assert enough.seconds.keys() == {"compute", "NVLink"}
    text = "\n".join(report(little))
    assert "DOES NOT FIT" in text
    assert "--train.microbatches" in text


def test_the_largest_batch_is_the_last_that_fits(
    packed: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def answer(spec: RunSpec, *_: object, cache: Path) -> Compiled:
        return Compiled(
            1.0, 1e9 * spec.config.train.global_batch_size, 1e9, None, None, [], {}, refused=False
        )

    monkeypatch.setattr(planning, "_compile", answer)
    spec = spec_of(packed, platform=gpu_topology.platform_of(TARGETS["h100"]))
    found = planning.plan_largest_batch(spec, pod_of("h100:2x4", memory=40e9), cache=tmp_path)
    assert [(plan.rows, plan.fits) for plan in found] == [(1, True), (2, True), (4, True), (8, False)]


@pytest.mark.parametrize("given", ["75", "0", "-1", "nan", "inf", "most"])
def test_a_part_of_the_memory_is_one(monkeypatch: pytest.MonkeyPatch, given: str):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", given)
    with pytest.raises(UserError, match=r"must be a number above 0 and at most 1, such as 0\.9"):
        gpu_topology.memory_fraction()


def test_jax_asks_the_target_and_not_the_gpu_of_this_process():
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    asked = cudnn.check_compute_capability
    with gpu_topology.as_if_here(TARGETS["a100"]):
        assert cudnn.check_compute_capability("8.0")
        assert not cudnn.check_compute_capability("9.0")
        assert not cudnn.is_cuda_compute_capability_equal("10.3")
    assert cudnn.check_compute_capability is asked


def refusal(recipe: Path, *flags: str, **environment: str) -> str:
    """The one line in which `bert-jax plan` refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax", "plan", str(recipe), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["h100"], "--topology h100 does not exist: it is GPU:HOSTSxGPUS, such as h100:4x8"),
        (["h100:0x8"], "--topology h100:0x8 does not exist"),
        (["v100:8"], "there are v5e:16x16, v4:8x8x8, v5p:8x8x8, v6e:16x16"),
        (["h100:8x8", "--slices", "2"], "--slices 2 is for TPUs"),
    ],
)
def test_gpus_that_do_not_exist_are_one_line(recipe: Path, flags: list[str], message: str):
    line = refusal(recipe, "--topology", *flags)
    assert message in line
    assert "h100:4x8" in line


def test_without_the_plugin_one_line_says_what_to_install(recipe: Path, tmp_path: Path):
    for number in (12, 13):
        (tmp_path / f"jax_cuda{number}_plugin.py").write_text("raise ImportError\n")
    line = refusal(recipe, "--topology", "h100:8", PYTHONPATH=str(tmp_path))
    assert line == "bert-jax: the GPU's compiler is missing: pip install 'bert-jax[cuda]'"


@needs_plugin
def test_a_step_is_compiled_for_gpus_that_are_not_here(packed: Config, tmp_path: Path):
    cases = {
        "one host": (packed, {"topology": "h100:1x2"}),
        "two hosts": (packed, {"topology": "h100:2x2"}),
        "again": (packed, {"topology": "h100:2x2"}),
    }
    found = asked(cases, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "the same question is answered from the cache"
    size = 4 * sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: init_state(spec_of(packed)).params))
    )
    for name, hosts in (("one host", 1), ("two hosts", 2)):
        plan = found[name]
        assert plan["fits"]
        assert plan["attention"] == "cudnn"
        assert plan["custom_calls"] == {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 2}
        assert plan["parameters"] == size
        assert plan["memory"] > 3 * size
        large = [c for c in plan["collectives"] if c[1] > 1000]
        assert {(kind, *group) for kind, _, _, *group in large} == {("all-reduce", 2 * hosts, hosts)}
        assert sum(sent * times for _, sent, times, *_ in large) == pytest.approx(size, rel=0.05)
    text = "\n".join(found["two hosts"]["report"])
    for part in (
        "h100:2x2: 4 chips",
        "not run",
        "all-reduce over 2 hosts",
        "NVLink",
        "network",
        "layers scanned",
    ):
        assert part in text


@needs_plugin
@pytest.mark.slow
def test_every_gpu_and_every_mesh_compiles(packed: Config, tmp_path: Path):
    cases = {name: (packed, {"topology": f"{name}:2"}) for name in TARGETS}
    cases |= {
        "fsdp": (replace(packed, mesh__fsdp=2), {"topology": "h100:2x2"}),
        "tensor": (replace(packed, mesh__tensor=2), {"topology": "h100:2x2"}),
        "microbatches": (replace(packed, train__microbatches=4), {"topology": "h100:2x2"}),
    }
    found = asked(cases, tmp_path)
    assert found.keys() == cases.keys()
    for name, plan in found.items():
        assert plan["fits"], name
        fused = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
        assert set(plan["custom_calls"]) == (set() if name in ("a100", "a100-40g", "l4") else fused), name
    assert found["microbatches"]["custom_calls"] == dict.fromkeys(sorted(fused), 2 * 4)
    assert found["fsdp"]["parameters"] < 0.7 * found["h100"]["parameters"]
