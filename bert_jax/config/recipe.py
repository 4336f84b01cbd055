"""Recipes: config files in Python, with a function get_config(); often another one and what differs.

One of several phases, each a run that starts from the weights of the one before, has get_phases().
"""

from __future__ import annotations

import dataclasses
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from bert_jax.config.sections import Config
from data_pipeline.errors import UserError, require

Section = TypeVar("Section")


def load_recipe(path: str | Path) -> Config:
    """The config of a file, or FILE:PHASE of one that has several phases.

    Raises:
      FileNotFoundError, UserError: as `load_phases`, or there are several and none is named.
    """
    phases = load_phases(path)
    if len(phases) > 1:
        file = str(path).removesuffix(":")
        raise UserError(
            f"{file} has the phases {', '.join(phases)}: name one, as in {file}:{next(iter(phases))}"
        )
    return next(iter(phases.values()))


def load_phases(path: str | Path) -> dict[str, Config]:
    """Runs a config file and returns its configs by the names of their phases, in order.

    They are what its `get_phases()` gives, or one without a name if it has `get_config()`. FILE:PHASE is one
    of them.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it fails, has no such function or phase, or what it gives are no Configs.
    """
    name = ""
    if not Path(path).is_file():
        file, _, name = str(path).rpartition(":")
        path = file or path
    if not Path(path).is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        defined = runpy.run_path(str(path))
        several, one = defined.get("get_phases"), defined.get("get_config")
        require(callable(several or one), "it defines no function get_config() or get_phases()")
        phases = several() if several else {"": one()}  # type: ignore[misc]
        require(isinstance(phases, dict) and len(phases) > 0, "get_phases() returns no dict of configs")
    except Exception as error:  # whatever a person's own code raises
        kind = "" if type(error) is UserError else f"{type(error).__name__}: "
        raise UserError(f"config file {path}: {kind}{error}") from error
    function = "get_phases()" if several else "get_config()"
    for phase, config in phases.items():
        if not isinstance(config, Config):
            where = f" as {phase!r}" if phase else ""
            kind = type(config).__name__
            raise UserError(f"{function} in {path} returns {kind}{where}, not bert_jax.config.Config")
        if several and not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", str(phase)):
            raise UserError(f"get_phases() in {path} has the phase {phase!r}: names are of a-z, 0-9, - and _")
    if name and name not in phases:
        known = f"the phases {', '.join(phases)}" if several else "one phase, without a name"
        raise UserError(f"{path} has no phase {name!r}; it has {known}")
    return {name: phases[name]} if name else phases


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
