"""The folder listing is the architecture: imports point downward, heavy imports stay out of the core."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FLOORS = (
    "data_pipeline",
    "bert_jax/config",
    "bert_jax/parallel",
    "bert_jax/ops",
    "bert_jax/models",
    "bert_jax/objectives",
    "bert_jax/training",
    "bert_jax/tasks",
    "bert_jax/planning",
    "bert_jax/workdir",
    "bert_jax/interop",
    "bert_jax/run",
    "bert_jax/finetuning",
    "bert_jax/inference",
    "bert_jax/analysis",
    "bert_jax/cli",
    "bert_jax",
)
"""A folder imports only from itself and from those before it."""

PURE = ("bert_jax/ops", "bert_jax/models", "bert_jax/objectives", "bert_jax/training")
"""No files, clock, logging or environment."""

MODULES = sorted(path for name in ("data_pipeline", "bert_jax") for path in (ROOT / name).rglob("*.py"))


def folder(path: Path) -> str:
    """The floor that a file stands on: its folder, or a folder around that."""
    parents = [parent.relative_to(ROOT).as_posix() for parent in path.parents if ROOT in parent.parents]
    return next(parent for parent in parents if parent in FLOORS)


def imports(path: Path) -> set[str]:
    """Every module imported anywhere in a file, functions included; the modules of a package, not itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if file_of(member) else node.module for member in members}
    return found


def file_of(module: str) -> Path | None:
    """Its file, if it is of this project."""
    place = ROOT / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imported_files(path: Path) -> set[Path]:
    """Those of this project."""
    return {file for name in imports(path) if (file := file_of(name))} - {path}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_module = pytest.mark.parametrize("path", MODULES, ids=name)


def test_every_folder_has_its_floor():
    folders = {path.parent.relative_to(ROOT).as_posix() for path in MODULES}
    assert set(FLOORS) <= folders
    assert {folder(path) for path in MODULES} == set(FLOORS)


@each_module
def test_imports_point_downward(path: Path):
    here = FLOORS.index(folder(path))
    above = {name(file) for file in imported_files(path) if FLOORS.index(folder(file)) > here}
    assert not above, f"{name(path)} imports {above} from above"


def test_no_two_modules_import_each_other():
    """Nor any longer circle; a package's own `__init__` may name its members."""
    graph = {path: imported_files(path) for path in MODULES}
    done: set[Path] = set()

    def visit(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, " -> ".join(map(name, (*way[way.index(path) :], path)))
        if path not in done:
            for file in graph[path]:
                visit(file, (*way, path))
            done.add(path)

    for path in MODULES:
        visit(path, ())


@pytest.mark.parametrize("path", [path for path in MODULES if folder(path) == "data_pipeline"], ids=name)
def test_data_pipeline_knows_neither_jax_nor_bert_jax(path: Path):
    assert not packages(path) & {"jax", "flax", "optax", "orbax", "bert_jax"}


@pytest.mark.parametrize("path", [path for path in MODULES if folder(path) != "data_pipeline"], ids=name)
def test_bert_jax_never_imports_torch_or_transformers_nor_tensorflow_itself(path: Path):
    """But to read TensorFlow's own checkpoints, and TFDS's examples of a task."""
    reads = {
        "bert_jax/interop/tensorflow_v1.py": {"tensorflow"},
        "bert_jax/tasks/records.py": {"tensorflow", "tensorflow_datasets"},
    }
    heavy = {"torch", "transformers", "tensorflow", "tensorflow_datasets"} - reads.get(name(path), set())
    assert not packages(path) & heavy


@pytest.mark.parametrize("path", [path for path in MODULES if folder(path) in PURE], ids=name)
def test_the_core_is_pure(path: Path):
    """No files, clock, logging or environment: only jax, flax, optax, numpy, a little standard library."""
    standard = {"__future__", "collections", "contextlib", "dataclasses", "functools", "math", "re", "typing"}
    assert packages(path) <= {"jax", "flax", "optax", "numpy", "bert_jax", "data_pipeline"} | standard
    data = {file for file in imported_files(path) if folder(file) == "data_pipeline"}
    allowed = ("batch", "config", "errors")
    assert {name(file) for file in data} <= {f"data_pipeline/{module}.py" for module in allowed}


@each_module
def test_nothing_is_unpickled(path: Path):
    """What is read is JSON, safetensors, Orbax's arrays, records of integers: data, never code."""
    assert not packages(path) & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    assert "allow_pickle" not in path.read_text()


@pytest.mark.parametrize("file", ["config.py", "errors.py"])
def test_the_data_config_is_standard_library_only(file: str):
    path = ROOT / "data_pipeline" / file
    assert packages(path) - {"data_pipeline"} <= set(sys.stdlib_module_names)
    assert {name(imported) for imported in imported_files(path)} <= {"data_pipeline/errors.py"}


def test_the_training_core_imports_without_tensorflow():
    """A bare CUDA machine has jax, flax, optax and orbax only."""
    program = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "torch", "transformers", "sentencepiece", "tyro", "tqdm"):
    sys.modules[name] = None  # importing it raises ImportError
import bert_jax.run.loop, bert_jax.interop.huggingface, bert_jax.run.evaluate
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_run_does_not_wait_for_pytorch():
    program = """
import sys
import pathlib, tempfile
from bert_jax.run.tensorboard import EventFile
EventFile(pathlib.Path(tempfile.mkdtemp()), start=0)
assert "tensorboardX" in sys.modules and "torch" not in sys.modules
import torch
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@each_module
def test_every_module_says_what_it_owns(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text()))
