"""Configs as JSON, both ways, and in which fields two of them differ."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bert_jax.config.sections import Config
from data_pipeline.config import Section
from data_pipeline.errors import UserError, require

KIND_KEYS = {"model": "model_type", "objective": "kind", "task": "kind"}
"""The key that says which kind a section is, where there are several."""

Kinds = Mapping[str, Sequence[type[Section]]]
"""The classes that a section may be of, by section."""


def to_json(config: Config) -> str:
    return json.dumps({name: to_dict(value) for name, value in vars(config).items()}, indent=2) + "\n"


def to_dict(section: Section | None) -> dict[str, Any] | None:
    """A section, with its kind if there are several."""
    if section is None:
        return None
    kind = {KIND_KEYS[section.path]: getattr(section, "kind", None)} if section.path in KIND_KEYS else {}
    return kind | dataclasses.asdict(section)  # type: ignore[call-overload]


def from_json(text: str, kinds: Kinds) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      UserError: it is not JSON, a field is unknown or missing, or a value has the wrong type or cannot work.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(f"not JSON ({error})") from error
    return _build(Config, "the config", fields, kinds)


def from_dict(path: str, fields: Any, kinds: Kinds) -> Any:
    """Reads what `to_dict` wrote of a section of several kinds. Raises as `from_json`."""
    require(isinstance(fields, dict), f"{path} is not an object")
    key = KIND_KEYS[path]
    kind = fields.get(key)
    known = {found.kind: found for found in kinds[path]}  # type: ignore[attr-defined]
    require(kind in known, f"{path}.{key} is {kind!r}; known are {', '.join(map(repr, known))}")
    return _build(known[kind], path, {name: value for name, value in fields.items() if name != key}, kinds)


def _build(cls: Any, path: str, fields: Any, kinds: Kinds) -> Any:
    require(isinstance(fields, dict), f"{path} is not an object")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unmatched = sorted(set(names) ^ fields.keys())
    require(not unmatched, f"{path} has unknown or missing fields: {', '.join(unmatched)}")

    def built(name: str, value: Any) -> Any:
        if cls is Config and name in KIND_KEYS:
            return None if value is None and name != "model" else from_dict(name, value, kinds)
        if dataclasses.is_dataclass(hints[name]):
            return _build(hints[name], hints[name].path, value, kinds)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: built(name, fields[name]) for name in names})


def differences(one: Any, other: Any, *, path: str = "", free: Collection[str] = ()) -> list[str]:
    """`field is one's value, not other's` for each field that differs, but for `free` ones and sections.

    Args:
      one, other: configs, or what both have at `path`.
    """
    if path in free or one == other:
        return []
    if not dataclasses.is_dataclass(one) or type(one) is not type(other):
        return [f"{path} is {one!r}, not {other!r}"]
    found: list[str] = []
    for field in dataclasses.fields(one):
        below = f"{path}.{field.name}".lstrip(".")
        found += differences(getattr(one, field.name), getattr(other, field.name), path=below, free=free)
    return found
