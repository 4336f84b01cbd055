"""Configs with fields changed, as config files, and what follows from them."""

from __future__ import annotations

import dataclasses

from bert_jax.config import Config, ElectraConfig, EncoderConfig
from bert_jax.config.as_json import to_json
from bert_jax.models import encoder_of
from bert_jax.objectives.objective import Objective
from bert_jax.parallel.platform import Platform
from bert_jax.training.run_spec import RunSpec, pretraining_spec

CPU = Platform("cpu")


def replace(config: Config, **changes: object) -> Config:
    """`config` with fields or whole sections changed: replace(config, model__hidden_size=64, task=None)."""
    sections: dict[str, dict[str, object]] = {}
    whole: dict[str, object] = {}
    for path, value in changes.items():
        section, _, field = path.partition("__")
        if field:
            sections.setdefault(section, {})[field] = value
        else:
            whole[section] = value
    changed = {name: dataclasses.replace(getattr(config, name), **f) for name, f in sections.items()}
    return dataclasses.replace(config, **changed, **whole)


def spec_of(config: Config, *, platform: Platform = CPU) -> RunSpec:
    """What follows from the config of a pretraining."""
    assert isinstance(config.model, EncoderConfig)
    return pretraining_spec(config, config.model, platform)


def electra_of(model: EncoderConfig) -> ElectraConfig:
    """An ELECTRA of the same sizes, with embeddings half as wide."""
    names = ("vocab_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    return ElectraConfig(
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        embedding_size=model.hidden_size // 2,
        **{name: getattr(model, name) for name in names},
    )


def model_for(objective: Objective, model: EncoderConfig) -> EncoderConfig:
    """`model`, or an ELECTRA where the objective wants one."""
    refused = objective.refuses(objective.Config(), encoder_of(model), None)
    return model if refused is None else electra_of(model)


def recipe_of(config: Config) -> str:
    """A config file that gives `config`."""
    return (
        "from bert_jax.workdir.run_files import config_from_json\n"
        f"def get_config():\n    return config_from_json({to_json(config)!r})\n"
    )
