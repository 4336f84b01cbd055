"""Configs with fields changed, and as config files."""

from __future__ import annotations

import dataclasses

from bert_jax.config import Config
from bert_jax.config.files import to_json


def replace(config: Config, **changes: object) -> Config:
    """`config` with fields changed: replace(config, model__hidden_size=64)."""
    sections: dict[str, dict[str, object]] = {}
    for path, value in changes.items():
        section, _, field = path.partition("__")
        sections.setdefault(section, {})[field] = value
    changed = {name: dataclasses.replace(getattr(config, name), **f) for name, f in sections.items()}
    return dataclasses.replace(config, **changed)


def recipe_of(config: Config) -> str:
    """A config file that gives `config`."""
    return (
        "from bert_jax.config.files import from_json\n"
        f"def get_config():\n    return from_json({to_json(config)!r})\n"
    )
