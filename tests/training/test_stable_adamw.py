"""StableAdamW beside its paper in float64 NumPy, on the tensors that PyTorch would have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import Config, ModernBertConfig, OptimizerConfig
from bert_jax.interop.huggingface import from_tensors, to_tensors
from bert_jax.training.network import Network, Params, init_params
from bert_jax.training.optimizer import make_optimizer, schedule_of
from tests.helpers.configs import replace, spec_of

FUSED = "model.layers.1.attn.Wqkv.weight"


@pytest.fixture(scope="module")
def stable(config: Config) -> Config:
    """A small ModernBERT, with stacked layers, fused products and rows that pad its vocabulary."""
    model = ModernBertConfig(
        vocab_size=701,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    return replace(
        config,
        model=model,
        data__input_format="full_sentences",
        optimizer=OptimizerConfig(
            name="stable_adamw", learning_rate=1e-2, warmup_steps=5, b2=0.98, weight_decay=0.1, clip_norm=None
        ),
    )


def random_gradient(network: Network, seed: int, scale: float) -> Params:
    """No row that pads the vocabulary has one, as in a training."""
    params = init_params(network, jax.random.key(0))
    key = jax.random.key(seed)
    drawn = jax.tree.map(
        lambda x: scale * jax.random.normal(jax.random.fold_in(key, x.size), x.shape), params
    )
    return from_tensors(network, to_tensors(network, drawn))


def reference(config: Config, tensors: dict, gradients: list[dict]) -> dict:
    """Wortsman et al. (2023), algorithm 2; with `decouple_lr` as optimi has it for ModernBERT."""
    o, rate = config.optimizer, schedule_of(spec_of(config))
    tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
    first, second = ({name: np.zeros_like(x) for name, x in tensors.items()} for _ in range(2))
    for t, grads in enumerate(gradients, 1):
        b1, b2 = ((b - b**t) / (1 - b**t) for b in (o.b1, o.b2))
        for name, g in grads.items():
            g = g.astype(np.float64)
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g**2
            rms = np.sqrt((g**2 / np.maximum(second[name], o.eps**2)).mean())
            now = float(rate(t - 1)) / max(1, rms)
            if "norm" not in name and not name.endswith("bias"):
                over = o.learning_rate if o.decouple_lr else 1
                tensors[name] = tensors[name] * (1 - now / over * o.weight_decay)
            tensors[name] = tensors[name] - now * first[name] / (np.sqrt(second[name]) + o.eps)
    return tensors


@pytest.mark.long
@pytest.mark.parametrize("decouple_lr", [False, True])
def test_twenty_steps_are_those_of_the_paper(stable: Config, decouple_lr: bool):
    """Gradients grow and shrink, and surprise the second moment by a factor of fifty."""
    config = replace(
        stable, optimizer__decouple_lr=decouple_lr, optimizer__weight_decay=1e-3 if decouple_lr else 0.1
    )
    spec = spec_of(config)
    optimizer, params = make_optimizer(spec), init_params(spec.network, jax.random.key(0))
    scales = [1, 1, 1, 1, 50, 1, 0.01, 0.01, 2, 2] * 2
    gradients = [random_gradient(spec.network, i, 1e-2 * scale) for i, scale in enumerate(scales)]
    expected = reference(
        config, to_tensors(spec.network, params), [to_tensors(spec.network, g) for g in gradients]
    )
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    start = to_tensors(spec.network, params)
    for step, grads in enumerate(gradients):
        updates, state = update(grads, state, params, position=jnp.asarray(step))
        params = jax.tree.map(jnp.add, params, updates)
    found = to_tensors(spec.network, params)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=3e-6, err_msg=name)
        assert np.abs(array - start[name]).max() > 1e-3, f"{name} has moved"


def after_quiet_steps(config: Config, surprise: float, *, only: str | None = None) -> dict[str, np.ndarray]:
    """The update by a gradient of ones times `surprise`, of all tensors or of one, after 30 of ones, without
    a memory of the first moment."""
    config = replace(config, optimizer__warmup_steps=0, optimizer__weight_decay=0.0, optimizer__b1=0.0)
    spec = spec_of(config)
    ones = {
        name: np.ones_like(x)
        for name, x in to_tensors(spec.network, init_params(spec.network, jax.random.key(0))).items()
    }
    loud = {name: x * (surprise if only in (None, name) else 1) for name, x in ones.items()}
    params = from_tensors(spec.network, ones)
    optimizer = make_optimizer(spec)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for grads in [params] * 30 + [from_tensors(spec.network, loud)]:
        updates, state = update(grads, state, params, position=jnp.asarray(0))
    rate = spec.config.optimizer.learning_rate
    return {name: x / -rate for name, x in to_tensors(spec.network, updates).items()}


@pytest.mark.long
@settings(max_examples=5, deadline=None)
@given(st.floats(0, 12))
def test_no_surprise_makes_a_step_longer_than_that_of_a_steady_gradient(stable: Config, digits: float):
    for name, update in after_quiet_steps(stable, 10.0**digits).items():
        assert np.sqrt(np.mean(update**2)) <= 1.001, name


def test_adamw_takes_longer_ones(stable: Config):
    """The second moment is then the newest gradient alone, and has a small part of it."""
    lengths = after_quiet_steps(replace(stable, optimizer__name="adamw"), 1e6)[FUSED]
    newest = (1 - 0.98) / (1 - 0.98**31)
    np.testing.assert_allclose(lengths, newest**-0.5, rtol=1e-3)


def test_a_surprise_in_one_layer_shortens_the_step_of_no_other(stable: Config):
    """Nor of another tensor of that layer."""
    loud, quiet = (after_quiet_steps(stable, surprise, only=FUSED) for surprise in (1e6, 1.0))
    assert {name for name in quiet if not np.allclose(loud[name], quiet[name], rtol=1e-6)} == {FUSED}


def test_moments_that_are_not_corrected_are_refused():
    with pytest.raises(ValueError, match=r"bias_correction is False; .*'stable_adamw' needs it"):
        OptimizerConfig(name="stable_adamw", bias_correction=False)
