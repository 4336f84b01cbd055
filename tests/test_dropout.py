"""Dropout: each element on its own, with the share that was asked for, and the mean kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.dropout import dropout

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def dropped(rate: float, shape: tuple[int, ...], key: int = 0) -> np.ndarray:
    """True where an element was zeroed."""
    return np.asarray(dropout(jnp.ones(shape), rate=rate, key=jax.random.key(key))) == 0


@pytest.mark.parametrize("rate", [0.1, 0.0625, 0.5, 0.003, 0.9])
def test_the_share_is_the_one_asked_for(rate: float):
    """Finer than a byte could say: 0.1 is not 26/256, nor is 0.003 one of 256."""
    n = 4_000_000
    found = dropped(rate, (n // 1000, 1000)).mean()
    assert abs(found - rate) < 5 * (rate * (1 - rate) / n) ** 0.5 + 2**-17


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_kept_is_scaled_to_keep_the_mean(dtype):
    x = jnp.full((3000, 400), 2, dtype)
    found = np.asarray(dropout(x, rate=0.1, key=jax.random.key(0)).astype(jnp.float32))
    assert found.dtype == np.float32
    scale = np.float32(jnp.asarray(2**16 / 58982, dtype) * x[0, 0])
    assert set(np.unique(found)) == {0.0, scale}
    assert abs(found.mean() / 2 - 1) < (0.002 if dtype == jnp.float32 else 0.005)


def test_without_a_rate_nothing_changes():
    x = jax.random.normal(jax.random.key(1), (3, 5))
    assert (dropout(x, rate=0.0, key=jax.random.key(0)) == x).all()


def test_elements_are_dropped_independently():
    """Neighbours share random bits; it is not seen along the row, across rows or between keys."""
    one, other = dropped(0.1, (2000, 512)), dropped(0.1, (2000, 512), key=1)
    pairs = {f"{d} columns on": (one[:, :-d], one[:, d:]) for d in (1, 2, 3, 4, 5, 8)}
    pairs |= {"the next row": (one[:-1], one[1:]), "another key": (one, other)}
    for name, (a, b) in pairs.items():
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < 5 / a.size**0.5, name
    columns = one.mean(axis=0)
    deviation = (columns - 0.1) / (0.09 / 2000) ** 0.5
    assert np.abs(deviation).max() < 5
    assert 0.9 < deviation.std() < 1.1
    counts = np.bincount(one.reshape(-1, 4) @ [1, 2, 4, 8], minlength=16)
    expected = np.array([0.1 ** bin(i).count("1") * 0.9 ** (4 - bin(i).count("1")) for i in range(16)])
    chi_square = ((counts - expected * counts.sum()) ** 2 / (expected * counts.sum())).sum()
    assert chi_square < 15 + 5 * 30**0.5  # 15 degrees of freedom


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 130])
def test_a_row_may_have_any_length(size: int):
    found = dropped(0.5, (2000, size))
    assert found.shape == (2000, size)
    assert np.abs(found.mean(axis=0) - 0.5).max() < 5 * 0.5 / 2000**0.5


def test_the_gradient_is_that_of_the_plain_form():
    """Beside `where(mask, x / share, 0)`, which it is for the mask that it draws."""
    x = jax.random.normal(jax.random.key(1), (64, 48))
    key = jax.random.key(2)
    mask = dropout(jnp.ones_like(x), rate=0.1, key=key) != 0
    share = 58982 / 2**16

    def plain(x: jax.Array) -> jax.Array:
        return jnp.where(mask, x / share, 0)

    def fast(x: jax.Array) -> jax.Array:
        return dropout(x, rate=0.1, key=key)

    np.testing.assert_allclose(fast(x), plain(x), rtol=1e-6)
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (fast, plain)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_it_draws_a_quarter_of_the_words():
    lowered = jax.jit(lambda x, key: dropout(x, rate=0.1, key=key)).lower(
        jnp.ones((8, 256)), jax.random.key(0)
    )
    assert "8x64xui32" in lowered.as_text()
