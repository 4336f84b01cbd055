"""The folder listing is the architecture: imports point downward, heavy imports stay out of the core."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CONFIG = {"config", "config_files"}
CORE = {
    "model",
    "activations",
    "attributions",
    "budget",
    "attention",
    "collectives",
    "chips",
    "dropout",
    "layer_norm",
    "losses",
    "optimizer",
    "ramp",
    "sharding",
    "step",
    "flops",
}
SHELL = {
    "benchmark",
    "runtime",
    "digests",
    "clock",
    "sentinel",
    "history",
    "sources",
    "tensorflow_v1",
    "preflight",
    "provenance",
    "watchdog",
    "plan",
    "train",
    "evaluate",
    "scoring",
    "curves",
    "report",
    "report_page",
    "report_plots",
    "checkpoint",
    "compare",
    "continuation",
    "metrics",
    "distributed",
    "huggingface",
    "explain",
    "explanation_page",
    "export",
    "feed",
    "finetune",
    "glue",
    "predict",
    "task_rows",
    "model_card",
    "trained",
    "fill_mask",
}
CLI = {"cli", "verbs", "__main__"}
LAYERS = [CONFIG, CORE, SHELL, CLI]
"""Lowest first. A module imports from its own layer and from those below."""


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if path.stem != "__init__")


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


def test_every_module_of_bert_jax_has_a_layer():
    assert {path.stem for path in modules("bert_jax")} == set().union(*LAYERS)


@pytest.mark.parametrize("path", modules("bert_jax"), ids=lambda path: path.stem)
def test_bert_jax_imports_downward(path: Path):
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("bert_jax.")}
    above = {name for name in ours if layer(name) > layer(path.stem)}
    assert not above, f"{path.stem} imports {above} from above"
    data = {name for name in imports(path) if name.split(".")[0] == "data_pipeline"}
    if path.stem in CONFIG | CORE:
        assert all(name.startswith("data_pipeline.config") for name in data), f"{path.stem} imports {data}"


@pytest.mark.parametrize("path", modules("data_pipeline"), ids=lambda path: path.stem)
def test_data_pipeline_knows_neither_jax_nor_bert_jax(path: Path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & {"jax", "flax", "optax", "orbax", "bert_jax"}


@pytest.mark.parametrize("path", modules("bert_jax"), ids=lambda path: path.stem)
def test_bert_jax_never_imports_torch_or_transformers_nor_tensorflow_itself(path: Path):
    """But to read TensorFlow's own checkpoints."""
    packages = {name.split(".")[0] for name in imports(path)}
    reads = {"tensorflow"} if path.stem == "tensorflow_v1" else set()
    assert not packages & {"torch", "transformers", "tensorflow", "tensorflow_datasets"} - reads


@pytest.mark.parametrize("path", [path for path in modules("bert_jax") if path.stem in CORE], ids=str)
def test_the_core_is_pure(path: Path):
    """No files, clock, logging or environment: only jax, flax, optax, numpy, a little standard library."""
    allowed = {
        "jax",
        "flax",
        "optax",
        "numpy",
        "bert_jax",
        "__future__",
        "collections",
        "contextlib",
        "dataclasses",
        "functools",
        "math",
        "re",
        "typing",
    }
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", modules("bert_jax") + modules("data_pipeline"), ids=lambda path: path.stem)
def test_nothing_is_unpickled(path: Path):
    """What is read is JSON, safetensors, Orbax's arrays, records of integers: data, never code."""
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert "allow_pickle" not in path.read_text()


def test_the_data_config_is_standard_library_only():
    packages = {name.split(".")[0] for name in imports(ROOT / "data_pipeline" / "config.py")}
    assert packages <= set(sys.stdlib_module_names)


def test_the_training_core_imports_without_tensorflow():
    """A bare CUDA machine has jax, flax, optax and orbax only."""
    program = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "torch", "transformers", "sentencepiece", "tyro", "tqdm"):
    sys.modules[name] = None  # importing it raises ImportError
import bert_jax.train, bert_jax.huggingface, bert_jax.evaluate
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_run_does_not_wait_for_pytorch():
    program = """
import sys
from bert_jax.metrics import _summary_writer
assert _summary_writer().__module__ == "tensorboardX.writer" and "torch" not in sys.modules
import torch
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "path", [*modules("bert_jax"), *modules("data_pipeline")], ids=lambda path: path.stem
)
def test_every_module_says_what_it_owns(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text()))
