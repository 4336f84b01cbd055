"""float32 is multiplied as float32 wherever a model computes, on a TPU or a GPU too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.lax import Precision

from bert_jax.config import Config
from bert_jax.ops.precision import precision
from bert_jax.training.network import init_params, loss_weights, sums, total_loss
from data_pipeline.batch import unpack
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches


def products(jaxpr: Any) -> Iterator[Any]:
    """The matrix products of a program, those of its inner ones too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("float32", {Precision.HIGHEST}), ("bfloat16", {Precision.DEFAULT, None})]
)
def test_all_products_of_a_step_have_it(config: Config, dtype: str, wanted: set):
    """On the way forward and back."""
    spec = spec_of(replace(config, model__dtype=dtype))
    batch = jax.tree.map(jnp.asarray, unpack(read_batches(config, 1)[0]))

    def loss(params: Any) -> Any:
        found = sums(spec.network, params, batch, kernels=spec.kernels)
        return total_loss(spec.network, {name: found[name][0] for name in loss_weights(spec.network, batch)})

    params = jax.eval_shape(lambda: init_params(spec.network, jax.random.key(0)))
    found = list(products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    assert len(found) > 20
    of_float32 = {dtype == "float32" or all(x.aval.dtype == "float32" for x in e.invars) for e in found}
    assert True in of_float32
    for equation in found:
        assert set(equation.params["precision"] or (None,)) <= wanted, equation


@pytest.mark.parametrize("name", [jnp.float32, "float32", jnp.dtype("float32")])
def test_a_dtype_or_its_name(name: Any):
    with precision(name):
        assert jax.config.jax_default_matmul_precision == "highest"
