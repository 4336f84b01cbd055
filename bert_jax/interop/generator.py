"""Replaced-token detection is two models to others: the discriminator, and its generator in a folder in it.

Inside of a run they are one network, which may have some embeddings once for both (objectives/rtd.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import EncoderConfig, ModelConfig, RtdConfig
from bert_jax.interop import huggingface
from bert_jax.interop.huggingface import CONFIG_FILE, Tensors
from bert_jax.interop.tiling import check_sizes
from bert_jax.objectives import mlm, rtd
from bert_jax.training.network import Network, Params, parameters
from data_pipeline.errors import UserError

FOLDER = rtd.GENERATOR.removesuffix("/")


def apart(network: Network, params: Params) -> tuple[Network, Params]:
    """The same with a generator that shares nothing with the encoder; a network without one as it is."""
    if not isinstance(network.settings, RtdConfig):
        return network, params
    settings = dataclasses.replace(network.settings, embeddings="apart")
    return network._replace(settings=settings), rtd.apart(network.settings, params)


def masked_lm(network: Network, params: Params) -> tuple[Network, Params]:
    """The generator; a network without one as it is."""
    if network.generator is None:
        return network, params
    generator = apart(network, params)[1]["objective"]["generator"]
    head = {name: generator[name] for name in parameters(network.generator)["objective"]}
    return network.generator, {"encoder": generator["encoder"], "objective": head}


def models(network: Network, params: Params) -> dict[str, tuple[Network, Tensors]]:
    """What an export has, by folder: the network itself and, if it has one, its generator."""
    tensors = huggingface.to_tensors(*apart(network, params))
    own = {name: array for name, array in tensors.items() if not name.startswith(rtd.GENERATOR)}
    found = {"": (network, own)}
    if network.generator is not None:
        found[FOLDER] = network.generator, huggingface.to_tensors(*masked_lm(network, params))
    return found


def folder_of(source: Path) -> Path | None:
    """The folder of the generator in that of a discriminator, if there is one."""
    return source / FOLDER if (source / FOLDER / CONFIG_FILE).is_file() else None


def read(folder: Path) -> dict[str, Any]:
    """Parameters of a generator in a folder of its own, by their names in a network that has it.

    Raises:
      FileNotFoundError, UserError: as `huggingface.load`.
    """
    network, params = huggingface.load(folder)
    names = [parameter.huggingface for parameter in jax.tree.leaves(parameters(network))]
    return {rtd.GENERATOR + name: x for name, x in zip(names, jax.tree.leaves(params), strict=True)}


def load_network(source: Path, folder: Path) -> Network:
    """The generator in a folder of its own, which is that of `source`; raises UserError if it is none."""
    try:
        network = huggingface.load_network(folder)
        if network.objective is not mlm:
            raise UserError(f"it is of {network.huggingface_class}, not for masked tokens")
    except UserError as error:
        raise UserError(
            f"init.source {source}: its folder {FOLDER} holds no generator ({error}); move it away, so that "
            "a new one is trained"
        ) from error
    return network


def check_size(source: Path, theirs: EncoderConfig, ours: Network, *, tiles: bool) -> None:
    """Raises UserError unless the generator of a source is as large as that of `ours`, or no larger."""
    assert ours.generator is not None
    if tiles:
        check_sizes(theirs, ours.generator.model)
        return
    was = ours.generator.model.hidden_size / ours.model.hidden_size
    free = {
        "max_position_embeddings",
        "initializer_range",
        *(f.name for f in dataclasses.fields(ModelConfig)),
    }
    for field in dataclasses.fields(ours.generator.model):
        one, other = getattr(theirs, field.name, None), getattr(ours.generator.model, field.name)
        if one != other and field.name not in free and "dropout" not in field.name:
            size = theirs.hidden_size / ours.model.hidden_size
            use = f"use --objective.generator-size {size:.6g}, or " if size <= 1 and size != was else ""
            raise UserError(
                f"the generator of init.source {source} has {field.name} {one}, not {other}: {use}move its "
                f"folder {FOLDER} away, so that a new one is trained"
            )


def share(network: Network, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of two models that share nothing, by name, as those of a `network` that may share embeddings.

    Where there is no generator among them, the discriminator's embeddings are those of both.

    Raises:
      UserError: they differ where the network has them once.
    """
    ours = {parameter.huggingface for parameter in jax.tree.leaves(parameters(network))}
    found = dict(weights)
    for name in ours:
        table = name.removeprefix(rtd.ADDED)
        if name != table and table in weights:
            found[table] = weights.get(rtd.GENERATOR + table, weights[table])
            found[name] = weights[table] - found[table]
    if isinstance(network.settings, RtdConfig) and network.settings.embeddings == "shared":
        for name in weights:
            table = name.removeprefix(rtd.GENERATOR)
            if name != table and name not in ours and not _equal(weights[name], weights.get(table)):
                raise UserError(
                    f"generator and discriminator differ in {table}: objective.embeddings cannot be shared; "
                    "use gradient_disentangled or apart"
                )
    return found


def _equal(one: Any, other: Any) -> bool:
    return one is other or (one.shape == other.shape and bool((one == other).all()))
