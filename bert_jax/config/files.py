"""Configs as files: Python that people write, JSON that runs keep, and in which fields two of them differ."""

from __future__ import annotations

import dataclasses
import json
import runpy
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bert_jax.config import Config
from data_pipeline.config import Section
from data_pipeline.errors import UserError, require


def load(path: str | Path) -> Config:
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


def to_json(config: Config) -> str:
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      UserError: it is not JSON, a field is unknown or missing, or a value has the wrong type or cannot work.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(f"not JSON ({error})") from error
    return _build(Config, fields)


def load_json(path: Path) -> Config:
    """`from_json` of a file; a UserError names it."""
    try:
        return from_json(path.read_text())
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _build(kind: Any, value: Any) -> Any:
    path = kind.path if issubclass(kind, Section) else "the config"
    require(isinstance(value, dict), f"{path} is not an object")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    odd = sorted(set(names) ^ value.keys())
    require(not odd, f"{path} has unknown or missing fields: {', '.join(odd)}")

    def built(name: str) -> Any:
        is_section = dataclasses.is_dataclass(hints[name])
        if is_section:
            return _build(hints[name], value[name])
        return tuple(value[name]) if isinstance(value[name], list) else value[name]

    return kind(**{name: built(name) for name in names})


def differences(one: Config, other: Config, *, free: Collection[str] = ()) -> list[str]:
    """`field is one's value, not other's` for each field that differs, but for `free` ones and sections."""

    def walk(path: str, a: Any, b: Any) -> list[str]:
        if path in free or a == b:
            return []
        if not dataclasses.is_dataclass(a):
            return [f"{path} is {a!r}, not {b!r}"]
        names = [(f"{path}.{f.name}".lstrip("."), f.name) for f in dataclasses.fields(a)]
        return [line for name, key in names for line in walk(name, getattr(a, key), getattr(b, key))]

    return walk("", one, other)
