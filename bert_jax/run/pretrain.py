"""Pretraining: the training loop on a prepared dataset."""

from __future__ import annotations

from pathlib import Path

from bert_jax.config import Config
from bert_jax.interop.initialize import resolve
from bert_jax.parallel.sharding import make_mesh
from bert_jax.run.data import PretrainingData
from bert_jax.run.loop import train
from bert_jax.run.preflight import open_dataset
from bert_jax.training.fits import check_fits
from data_pipeline.errors import UserError
from data_pipeline.storage import dataset_folder


def check(config: Config) -> None:
    """What `pretrain` asks of config and dataset before its first step, for a run that comes later.

    Raises:
      FileNotFoundError, UserError: it would be refused.
    """
    spec = resolve(config)
    open_dataset(spec)
    check_fits(spec, make_mesh(config.mesh))


def pretrain(config: Config, *, workdir: Path) -> bool:
    """`train` on the prepared dataset in `data.dir`; raises as `train` does."""
    init = config.init
    for name in ("optimizer_state", "tile", "layers"):
        if getattr(init, name) and (init.source is None or not init.weights):
            raise UserError(f"init.{name} is for a run that goes on from another one: give init.source")
    if init.vocabulary != "keep" and init.source is None:
        raise UserError(f"init.vocabulary is {init.vocabulary}, which wants old weights: give init.source")
    dataset_folder(config.data.dir)  # a copy of gigabytes is no hang, which `train` would take it for
    return train(resolve(config), PretrainingData, workdir=workdir)
