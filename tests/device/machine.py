"""What the results were measured on: card, driver, versions."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Iterator

import jax

from bert_jax.parallel.platform import local_platform
from tests.device.bare import CARRIED
from tests.device.result import Result

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "transformers", "numpy")


def describe() -> Iterator[Result]:
    here = local_platform()
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    yield {
        "what": jax.devices()[0].device_kind,
        "ok": True,
        "platform": here.name,
        "capability": here.capability,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": versions,
        "carried": {name: importlib.import_module(name).__file__ for name in CARRIED},
    }
