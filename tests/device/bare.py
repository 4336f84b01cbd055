"""What a bare CUDA machine has, and how to do without the rest where more is installed."""

from __future__ import annotations

import importlib.metadata
import sys

PRESENT = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "safetensors", "sentencepiece", "tokenizers"),
    *("transformers", "torch", "tqdm", "rich", "numpy", "ml-dtypes", "etils", "pip", "setuptools"),
)
"""Packages, and with them what they require."""

CARRIED = ("tensorboardX",)
"""What a run imports beside: pure Python, so that the folder brings a copy along."""


def be_bare() -> None:
    """From now on only what a bare machine has can be imported, as if nothing else were installed."""
    present = required(PRESENT) | {_normal(name) for name in CARRIED} | {"bert-jax"}
    for module, packages in importlib.metadata.packages_distributions().items():
        if module not in sys.modules and not {_normal(package) for package in packages} & present:
            sys.modules[module] = None  # type: ignore[assignment]  # importing it raises ImportError
    found = importlib.metadata.Distribution.from_name

    def from_name(name: str) -> importlib.metadata.Distribution:
        if _normal(name) not in present:  # PyTorch asks for the version before it imports
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    importlib.metadata.Distribution.from_name = from_name  # type: ignore[method-assign,assignment]


def required(packages: tuple[str, ...]) -> set[str]:
    """These packages and all that they require, as it is installed here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    extras_seen: set[tuple[str, str]] = set()
    waiting = [Requirement(package) for package in packages]
    while waiting:
        requirement = waiting.pop()
        name = _normal(requirement.name)
        extras = {"", *requirement.extras}
        if extras <= {extra for seen, extra in extras_seen if seen == name}:
            continue
        extras_seen |= {(name, extra) for extra in extras}
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for needed in map(Requirement, lines):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
