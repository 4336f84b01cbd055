"""Training steps on fake devices."""

from __future__ import annotations

import jax

from bert_jax.config import Config, MeshConfig
from bert_jax.parallel import sharding
from bert_jax.training.fits import check_fits
from bert_jax.training.step import TrainState, jit_init_state, jit_train_step
from tests.helpers.configs import spec_of


def mesh_of(mesh: tuple[int, int, int]) -> jax.sharding.Mesh:
    """(data, fsdp, tensor) over the first fake devices."""
    data, fsdp, tensor = mesh
    return sharding.make_mesh(
        MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices=jax.devices()[: data * fsdp * tensor]
    )


def run(
    config: Config, batches: list, mesh: tuple[int, int, int] = (1, 1, 1)
) -> tuple[TrainState, list[dict]]:
    """Trains on `batches` from the initial state, with the whole batch's size."""
    built, spec = mesh_of(mesh), spec_of(config)
    check_fits(spec, built)
    with jax.set_mesh(built):
        state = jit_init_state(spec, built)()
        step = jit_train_step(spec, built, spec.stages[-1])
        metrics = []
        for batch in batches:
            on_mesh = sharding.global_batch(batch, built, batch_size=len(batch["token_ids"]))
            state, values = step(state, on_mesh)
            metrics.append({name: float(value) for name, value in values.items()})
    return state, metrics
