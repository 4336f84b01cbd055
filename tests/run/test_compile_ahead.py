"""A program that was compiled ahead is there when it is called."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import MeshConfig
from bert_jax.parallel import sharding
from bert_jax.run.compile_ahead import CompileAhead, abstract


def test_what_was_compiled_ahead_is_not_compiled_again():
    mesh = sharding.make_mesh(MeshConfig())
    traced: list[tuple[int, ...]] = []

    def function(state: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        traced.append(batch["rows"].shape)
        return state + jnp.tanh(batch["rows"]).sum()

    step = jax.jit(function, out_shardings=sharding.replicated(mesh), donate_argnums=0)
    compiled: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def rows(count: int) -> dict[str, jax.Array]:
        return sharding.global_batch({"rows": np.ones((count, 3), np.float32)}, mesh, batch_size=count)

    with jax.set_mesh(mesh):
        state = step(sharding.scalar(1.0, mesh), rows(8))
        larger = rows(16)
        ahead = CompileAhead()
        arguments = {name: abstract(array, rows=16) for name, array in rows(8).items()}
        ahead.begin(step, abstract(state), arguments)
        ahead.wait()
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            assert float(step(state, larger)) == pytest.approx(1 + (8 + 16) * 3 * np.tanh(1))
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
    assert traced == [(8, 3), (16, 3)]
    assert compiled == []
