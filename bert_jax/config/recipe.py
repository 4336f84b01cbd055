"""Recipes: config files in Python, with a function get_config(); often another one and what differs."""

from __future__ import annotations

import dataclasses
import runpy
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from bert_jax.config.sections import Config
from data_pipeline.errors import UserError, require

Section = TypeVar("Section")


def load_recipe(path: str | Path) -> Config:
    """Runs a config file and returns what its `get_config()` gives.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it fails, has no `get_config`, or that one does not return a Config.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        require(callable(get_config), "it defines no function get_config()")
        config = typing.cast(Any, get_config)()
    except Exception as error:  # whatever a person's own code raises
        kind = "" if type(error) is UserError else f"{type(error).__name__}: "
        raise UserError(f"config file {path}: {kind}{error}") from error
    if not isinstance(config, Config):
        raise UserError(f"get_config() in {path} returns {type(config).__name__}, not bert_jax.config.Config")
    return config


def delta(section: Section, **changes: Any) -> Section:
    """A config, or a section of one, with some fields changed; a dict changes fields of the section there.

    delta(config, data={"sequence_length": 512, "masking": {"max_predictions": 77}}, train={"steps": 1000})

    Raises:
      TypeError: there is no such field.
      UserError: a value cannot work.
    """
    inner = {
        name: delta(getattr(section, name), **value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(section, **inner)  # type: ignore[type-var]
