"""Dropout: each element on its own, with the share that was asked for, and the mean kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.ops.dropout import dropout

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def keys(seed: int, rows: int = 1) -> jax.Array:
    return jax.random.split(jax.random.key(seed), rows)


def dropped(rate: float, shape: tuple[int, ...], key: int = 0) -> np.ndarray:
    """True where an element was zeroed."""
    return np.asarray(dropout(jnp.ones(shape)[None], rate=rate, keys=keys(key)))[0] == 0


@pytest.mark.parametrize("rate", [0.1, 0.0625, 0.5, 0.003, 0.9])
def test_the_share_is_the_one_asked_for(rate: float):
    """Finer than a byte could say: 0.1 is not 26/256, nor is 0.003 one of 256."""
    n = 4_000_000
    found = dropped(rate, (n // 1000, 1000)).mean()
    assert abs(found - rate) < 5 * (rate * (1 - rate) / n) ** 0.5 + 2**-17


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_kept_is_scaled_to_keep_the_mean(dtype):
    x = jnp.full((5, 600, 400), 2, dtype)
    found = np.asarray(dropout(x, rate=0.1, keys=keys(0, 5)).astype(jnp.float32))
    assert found.dtype == np.float32
    scale = np.float32(jnp.asarray(2**16 / 58982, dtype) * x[0, 0, 0])
    assert set(np.unique(found)) == {0.0, scale}
    assert abs(found.mean() / 2 - 1) < (0.002 if dtype == jnp.float32 else 0.005)


def test_without_a_rate_nothing_changes():
    x = jax.random.normal(jax.random.key(1), (2, 3, 5))
    assert (dropout(x, rate=0.0, keys=keys(0, 2)) == x).all()


@pytest.mark.long
def test_a_rows_mask_is_a_function_of_its_key_alone():
    x = jnp.ones((6, 2, 10, 16))
    whole = dropout(x, rate=0.5, keys=keys(3, 6))
    assert (dropout(x[4:5], rate=0.5, keys=keys(3, 6)[4:5]) == whole[4:5]).all()
    assert (whole[0] != whole[1]).any()


def test_elements_are_dropped_independently():
    """Rows a quarter apart share random bits; it is not seen between them, between columns or keys."""
    one, other = dropped(0.1, (2000, 512)), dropped(0.1, (2000, 512), key=1)
    pairs = {f"{d} columns on": (one[:, :-d], one[:, d:]) for d in (1, 2, 3, 4, 5, 8)}
    pairs |= {f"{d} rows on": (one[:-d], one[d:]) for d in (1, 500, 1000, 1500)}
    pairs |= {"another key": (one, other)}
    for name, (a, b) in pairs.items():
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < 5 / a.size**0.5, name
    columns = one.mean(axis=0)
    deviation = (columns - 0.1) / (0.09 / 2000) ** 0.5
    assert np.abs(deviation).max() < 5
    assert 0.9 < deviation.std() < 1.1
    counts = np.bincount(np.einsum("jrc,j->rc", one.reshape(4, 500, 512), [1, 2, 4, 8]).ravel(), minlength=16)
    expected = np.array([0.1 ** bin(i).count("1") * 0.9 ** (4 - bin(i).count("1")) for i in range(16)])
    chi_square = ((counts - expected * counts.sum()) ** 2 / (expected * counts.sum())).sum()
    assert chi_square < 15 + 5 * 30**0.5  # 15 degrees of freedom


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 130])
def test_a_row_may_have_any_length(size: int):
    found = dropped(0.5, (size, 2000))
    assert found.shape == (size, 2000)
    assert np.abs(found.mean(axis=1) - 0.5).max() < 5 * 0.5 / 2000**0.5


def test_the_gradient_is_that_of_the_plain_form():
    """Beside `where(mask, x / share, 0)`, which it is for the mask that it draws."""
    x = jax.random.normal(jax.random.key(1), (2, 64, 48))
    mask = dropout(jnp.ones_like(x), rate=0.1, keys=keys(2, 2)) != 0
    share = 58982 / 2**16

    def plain(x: jax.Array) -> jax.Array:
        return jnp.where(mask, x / share, 0)

    def fast(x: jax.Array) -> jax.Array:
        return dropout(x, rate=0.1, keys=keys(2, 2))

    np.testing.assert_allclose(fast(x), plain(x), rtol=1e-6)
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (fast, plain)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_it_draws_a_quarter_of_the_words():
    lowered = jax.jit(lambda x, keys: dropout(x, rate=0.1, keys=keys)).lower(
        jnp.ones((8, 64, 256)), keys(0, 8)
    )
    assert "8x1x16x256xui32" in lowered.as_text()
