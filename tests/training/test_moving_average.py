"""The exponential moving average of the weights: its numbers, its evaluation, its export."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.cli import main as cli
from bert_jax.config import Config, MeshConfig, OptimizerConfig
from bert_jax.interop.export import export
from bert_jax.interop.huggingface import to_tensors
from bert_jax.parallel import sharding
from bert_jax.run.data import PretrainingData
from bert_jax.run.pretrain import pretrain
from bert_jax.training.moving_average import average_in
from bert_jax.training.network import init_params
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.step import abstract_state
from bert_jax.workdir.checkpoint import read_moving_average, read_params
from bert_jax.workdir.run_files import load_spec
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import metrics


@pytest.mark.long
@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_it_is_the_recurrence_without_its_bias(config: Config, decay: float):
    """Also through a step that was lost; and the updates are those without it."""
    config = replace(config, optimizer__learning_rate=1e-2, optimizer__warmup_steps=0)
    spec = spec_of(replace(config, optimizer__ema_decay=decay))
    params = init_params(spec.network, jax.random.key(0))
    optimizer, plain = make_optimizer(spec), make_optimizer(spec_of(config))
    state, other = optimizer.init(params), plain.init(params)
    total = jax.tree.map(lambda x: np.zeros(x.shape), params)
    for step in range(8):
        keys = jax.random.key(step)
        grads = jax.tree.map(
            lambda x, k=keys: jax.random.normal(jax.random.fold_in(k, x.size), x.shape), params
        )
        how = {"position": jnp.asarray(step), "finite": jnp.asarray(step != 4)}
        updates, state = jax.jit(optimizer.update)(grads, state, params, **how)
        same, other = jax.jit(plain.update)(grads, other, params, **how)
        jax.tree.map(np.testing.assert_array_equal, updates, same)
        params = jax.tree.map(jnp.add, params, updates)
        total = jax.tree.map(lambda s, x: decay * s + (1 - decay) * np.float64(x), total, params)
        expected = jax.tree.map(lambda s, t=step + 1: s / (1 - decay**t), total)
        found = average_in(state)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7), found, expected)


def test_it_lies_like_the_parameters(config: Config):
    spec = spec_of(replace(config, optimizer__ema_decay=0.99))
    abstract = abstract_state(spec, sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert average_in(abstract.opt_state) == abstract.params


@pytest.fixture(scope="module")
def averaged(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps at a high rate, evaluated at the second and at the last."""
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    config = replace(
        config,
        optimizer__ema_decay=0.7,
        optimizer__learning_rate=1e-2,
        optimizer__warmup_steps=1,
        train__steps=4,
        train__eval_every=2,
        checkpoint__every=2,
    )
    assert pretrain(config, workdir=workdir)
    return workdir


@pytest.mark.long
def test_both_are_evaluated(averaged: Path):
    spec = load_spec(averaged)
    mesh = sharding.make_mesh(MeshConfig())
    lines = metrics(averaged, "validation")
    assert [line["step"] for line in lines] == [2, 4]
    with jax.set_mesh(mesh):
        evaluate = PretrainingData(spec).evaluator(spec, mesh)
        for line in lines:
            step = line["step"]
            raw, _ = read_params(averaged, spec, step=step, mesh=mesh)
            average, _ = read_moving_average(averaged, spec, step=step)
            average = jax.device_put(average, jax.tree.map(lambda x: x.sharding, raw))
            for params, prefix in ((raw, ""), (average, "ema_")):
                found = evaluate(params, lambda: False)
                assert found.keys() >= {"loss", "mlm_accuracy"}
                for name, value in found.items():
                    assert line[f"{prefix}{name}"] == pytest.approx(value, abs=1e-6)
            assert line["ema_loss"] != line["loss"]


@pytest.mark.long
def test_it_is_exported(averaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    spec = load_spec(averaged)
    for flags, step in (([], 4), (["--step", "2"], 2)):
        out = tmp_path / str(step)
        assert cli.run(["export", "--workdir", str(averaged), "--out", str(out), "--ema", *flags]) == 0
        assert f"the moving average at step {step} of" in capsys.readouterr().out
        expected = to_tensors(spec.network, read_moving_average(averaged, spec, step=step)[0])
        found = safetensors.numpy.load_file(out / "model.safetensors")
        raw = to_tensors(spec.network, read_params(averaged, spec, step=step)[0])
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
        assert any(not np.array_equal(array, raw[name]) for name, array in found.items())
        card = (out / "README.md").read_text()
        line = next(line for line in metrics(averaged, "validation") if line["step"] == step)
        assert "- Weights: an exponential moving average, decay 0.7 a step" in card
        assert f"| loss | {line['ema_loss']:.4f} |" in card
        assert "ema_" not in card


def test_the_card_of_the_weights_themselves_has_their_metrics(averaged: Path, tmp_path: Path):
    export(averaged, out=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| loss | {metrics(averaged, 'validation')[-1]['loss']:.4f} |" in card
    assert "ema_" not in card
    assert "Weights:" not in card


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_that_averages_nothing_is_refused(decay: float):
    with pytest.raises(
        ValueError, match=r"optimizer\.ema_decay is .*; it must be greater than 0 and less than 1"
    ):
        OptimizerConfig(ema_decay=decay)
