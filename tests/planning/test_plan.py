"""The plan of a pod: the TPU's own compiler, on a machine without a TPU."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bert_jax.config import Config, MaskingConfig
from bert_jax.parallel.platform import Platform
from bert_jax.planning.plan import Plan, _ask, read_answer, report
from bert_jax.planning.pod import Pod
from bert_jax.training.chips import CHIPS
from bert_jax.training.step import init_state
from tests.helpers.configs import replace, spec_of
from tests.helpers.paths import ROOT
from tests.helpers.plans import asked

pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install 'bert-jax[tpu]'")


@pytest.fixture(scope="module")
def bfloat16(config: Config) -> Config:
    return replace(config, model__dtype="bfloat16", model__scan_unroll=2, train__global_batch_size=64)


SMALL = {"topology": "v5e:2x2"}


@pytest.fixture(scope="module")
def plans(bfloat16: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    cache = tmp_path_factory.mktemp("plans")
    once = replace(bfloat16, train__microbatches=4, train__reduce_dtype="bfloat16")
    cases = {
        "plain": (bfloat16, SMALL),
        "again": (bfloat16, SMALL),
        "once in bfloat16": (once, SMALL),
        "splash": (long_rows(bfloat16), SMALL),
    }
    answers = asked(cases, cache)
    assert len(list(cache.iterdir())) == len(cases) - 1, "the same question is answered from the cache"
    return answers


def long_rows(config: Config) -> Config:
    """Rows for the kernel."""
    data = dataclasses.replace(config.data, sequence_length=512, masking=MaskingConfig(max_predictions=77))
    model = dataclasses.replace(config.model, max_position_embeddings=512, attention_probs_dropout_prob=0.0)
    return dataclasses.replace(config, model=model, data=data)


@pytest.mark.slow
def test_every_path_compiles_for_real_chips(bfloat16: Config, tmp_path: Path):
    wide = replace(  # the compiler crashes on offloading arrays of 32
        replace(bfloat16, model__hidden_size=256, model__intermediate_size=512),
        model__scan_unroll=1,
        model__remat="offload",
    )
    cases = {
        "fsdp": (replace(bfloat16, mesh__fsdp=4), SMALL),
        "tensor": (replace(bfloat16, mesh__tensor=2), SMALL),
        "slices": (bfloat16, SMALL | {"slices": 2}),
        "v4": (bfloat16, {"topology": "v4:2x2x1"}),
        "v6e": (bfloat16, {"topology": "v6e:2x2"}),
        "splash with fsdp": (replace(long_rows(bfloat16), mesh__fsdp=2), SMALL),
        "splash with tensor": (replace(long_rows(bfloat16), mesh__tensor=2), SMALL),
        "rbg": (replace(bfloat16, train__dropout_prng="rbg"), SMALL),
        "offload": (wide, SMALL),
        "lamb": (replace(bfloat16, optimizer__name="lamb", optimizer__mu_dtype="bfloat16"), SMALL),
        "muon": (
            replace(bfloat16, optimizer__name="muon", mesh__fsdp=2, mesh__tensor=2),
            SMALL,
        ),
        "average": (replace(bfloat16, optimizer__name="stable_adamw", optimizer__ema_decay=0.999), SMALL),
    }
    too_large = (replace(bfloat16, train__global_batch_size=2**19), SMALL)
    found = asked(cases | {"too large": too_large}, tmp_path)
    assert not found.pop("too large")["fits"]
    assert found.keys() == cases.keys()
    for name, answer in found.items():
        assert answer["fits"], name
        assert answer["attention"] == ("splash" if name.startswith("splash") else "xla")
        assert answer["devices"] == (8 if name == "slices" else 4)
    assert found["slices"]["rows"] == 8
    assert found["fsdp"]["parameters"] < 0.4 * 4 * parameter_count(bfloat16)
    assert found["average"]["optimizer"] == pytest.approx(3 * 4 * parameter_count(bfloat16), abs=100)


def parameter_count(config: Config) -> int:
    params = jax.eval_shape(lambda: init_state(spec_of(config)).params)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.long
def test_state_is_counted_by_device(plans: dict, bfloat16: Config):
    size = 4 * parameter_count(bfloat16)
    assert plans["plain"]["parameters"] == size
    assert plans["plain"]["optimizer"] == pytest.approx(2 * size, abs=100)
    assert plans["plain"]["memory"] > 3 * size
    assert plans["plain"]["fits"]


@pytest.mark.long
def test_gradients_cross_the_network_once_a_step(plans: dict, bfloat16: Config):
    size = parameter_count(bfloat16)
    for name, width in (("plain", 4), ("once in bfloat16", 2)):
        large = [found for found in plans[name]["collectives"] if found[1] > 1000]
        assert {kind for kind, *_ in large} == {"all-reduce"}, name
        assert sum(sent * times for _, sent, times, *_ in large) == pytest.approx(width * size, rel=0.05), (
            name
        )


def test_long_rows_without_dropout_get_the_kernel(plans: dict):
    assert plans["plain"]["attention"] == "xla"
    assert plans["splash"]["attention"] == "splash"
    assert plans["splash"]["custom_calls"]["tpu_custom_call"] == 2 * 2, "two layers, forward and backward"
    assert "attention is not fused" in plans["plain"]["report"]
    assert plans["splash"]["fits"]


@pytest.mark.parametrize(
    ("complaint", "size"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.92G of 15.75G hbm.",
            16.92 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Allocation (size=34359738368) would exceed memory (size=17179869184)", 2**35),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_try(bfloat16: Config, complaint: str, size: float):
    """By what the compiler says; a real one is in the slow test."""

    class TooLarge:
        def compile(self):
            raise jax.errors.JaxRuntimeError(complaint)

    compiled = _ask(TooLarge(), hosts=[0] * 4)
    assert compiled.refused
    assert compiled.memory == size
    chip = CHIPS["TPU v5 lite"]
    pod = Pod(
        name="v5e:2x2",
        platform=Platform("tpu"),
        devices=jax.devices()[:4],
        chip=chip,
        memory=chip.memory,
        memory_rule="the compiler refuses what does not fit",
        host_of=lambda _: 0,
        hosts_are="slices",
        links="network",
        compiler="",
        compiling=contextlib.nullcontext,
    )
    found = Plan(spec_of(bfloat16), pod, 1e9, 2e9, compiled)
    assert not found.fits
    text = "\n".join(report(found))
    assert "DOES NOT FIT" in text
    assert "--train.microbatches" in text


def test_the_report_says_that_nothing_ran(plans: dict):
    text = "\n".join(plans["plain"]["report"])
    for part in (
        "v5e:2x2: 4 chips",
        "not run",
        "activations",
        "all-reduce",
        "at best",
        "chip-hours",
        " fits",
    ):
        assert part in text


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": 1}', '{"collectives": 3}'])
def test_a_damaged_answer_is_none(tmp_path: Path, content: str):
    (tmp_path / "plan.json").write_text(content)
    assert read_answer(tmp_path / "plan.json") is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology", "v5e:3x3"], "--topology v5e:3x3 does not exist"),
        (["--topology", "nonsense"], "--topology nonsense does not exist"),
        (["--topology", "v5e:2x2", "--mesh.data", "3"], "does not cover the 4 device(s)"),
        (
            ["--topology", "v5e:2x2", "--slices", "2", "--mesh.fsdp", "8"],
            "mesh.data 1 is not divisible by the 2",
        ),
    ],
)
def test_a_pod_that_does_not_exist_is_one_line(recipe: Path, flags: list[str], message: str):
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax", "plan", str(recipe), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
