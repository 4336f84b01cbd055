"""The benchmark times the step that pretraining runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bert_jax.config import Config
from bert_jax.run.benchmark import benchmark, report
from tests.helpers.configs import replace, spec_of
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def result(config: Config, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("profile")
    found = benchmark(spec_of(config), steps=3, profile=folder)
    assert list(folder.rglob("*.xplane.pb")), "a trace was written"
    return found


@pytest.mark.long
def test_it_times_one_batch_and_the_loader(config: Config, result):
    assert result.why_synthetic == ""
    assert result.loaded is not None
    for timing in (result.repeated, result.loaded):
        assert len(timing.seconds) == len(timing.waited) == len(timing.host) == 3
        assert len(timing.ahead) == 3
        assert 0 < timing.step < 60
        assert all(0 < n <= 16 * 64 for n in timing.tokens)
        assert timing.real_tokens_per_second == pytest.approx(sum(timing.tokens) / sum(timing.seconds))
    assert len(set(result.loaded.tokens)) > 1, "one batch after another"
    assert result.compile_seconds > 0
    assert result.temporary_bytes > 0


@pytest.mark.long
def test_mfu_is_analytic_flops_against_the_peak(result):
    assert result.mfu is None, "a CPU has no known peak"
    on_chips = dataclasses.replace(result, device="TPU v5 lite", devices=4)
    expected = result.spec.step_flops / result.repeated.step / (4 * 197e12)
    assert on_chips.mfu == pytest.approx(expected)


def test_the_report_says_it_all(result):
    text = "\n".join(report(result))
    for part in (
        "8 x cpu",
        jax.__version__,
        "attention xla",
        "median of 3",
        "real tokens a second",
        "dispatched ahead",
        "waiting for the loader",
    ):
        assert part in text
    assert "synthetic" not in text


@pytest.mark.long
def test_without_tensorflow_it_runs_on_synthetic_batches_and_says_why(recipe: Path):
    """As on a machine with CUDA and nothing else."""
    program = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "sentencepiece"):
    sys.modules[name] = None  # importing it raises ImportError
from bert_jax.cli import main as cli
sys.exit(cli.run(["benchmark", {str(recipe)!r}, "--steps", "2", "--cache", {str(recipe.parent)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "batches are synthetic: " in done.stdout
    assert "tensorflow" in done.stdout


def test_synthetic_batches_are_of_the_contract(config: Config):
    from bert_jax.run.benchmark import _synthetic
    from data_pipeline.batch import batch_spec, unpack

    batch = next(_synthetic(spec_of(config), rows=5))
    arrays = batch_spec(config.data, rows=5)
    assert {name: (array.shape, array.dtype.type) for name, array in batch.items()} == arrays
    assert batch["mlm_positions"].max() < 64
    assert unpack(batch)["segment_ids"].all(), "no padding"
    assert unpack(batch)["mlm_weights"].all(), "all are predicted"


def test_a_config_that_does_not_fit_is_refused(config: Config):
    with pytest.raises(ValueError, match="is not divisible by 8"):
        benchmark(spec_of(replace(config, train__global_batch_size=12)), steps=1)
