"""What runs, and on what: for the history of a run, and for its processes to compare."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import Config
from bert_jax.config.as_json import differences
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.inventory import steps_of
from bert_jax.workdir.run_files import load_config

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "tensorflow-cpu")


def provenance(spec: RunSpec, *, workdir: Path) -> dict[str, Any]:
    """What runs, on what, and how its config differs from the one the workdir was left with."""
    return {
        "revision": _revision(),
        "versions": _versions(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "kernel": spec.kernels.names,
        "changes": differences(load_config(workdir), spec.config) if steps_of(workdir) else [],
    }


def facts(config: Config) -> dict[str, str]:
    """What must be the same in all processes of a run, each fact with its name."""
    leaves = jax.tree.leaves_with_path(dataclasses.asdict(config), is_leaf=lambda leaf: leaf is None)
    fields = {jax.tree_util.keystr(path, simple=True, separator="."): repr(leaf) for path, leaf in leaves}
    del fields["data.dir"]  # each may have a copy of its own
    return {
        "the source code": _source_digest(),
        **{f"the version of {name}": version for name, version in _versions().items()},
        "the kind of device": jax.local_devices()[0].device_kind,
        "the number of devices": str(jax.local_device_count()),
        **fields,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bert-jax", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # tensorflow has two names
    return found


def _source_digest() -> str:
    """Hash of this program's files as they are: there may be no git, or changes that are in no revision."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted([*root.glob("bert_jax/**/*.py"), *root.glob("data_pipeline/**/*.py")]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _revision() -> str | None:
    """Revision of this package's git work tree, with + if it was changed since; None if it is in none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a slow disk
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")
