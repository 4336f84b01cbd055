"""config.json, what was asked of a run, and resolved.json, what followed from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bert_jax import models, objectives, tasks
from bert_jax.config import Config, ModelConfig, as_json
from bert_jax.objectives.distillation import Distillation, Teacher
from bert_jax.objectives.objective import Objective, RowShape
from bert_jax.ops.attention import PLAIN
from bert_jax.training.network import Network
from bert_jax.training.run_spec import RunSpec, best_metric
from data_pipeline.errors import UserError
from data_pipeline.storage import replace_text

CONFIG_FILE, RESOLVED_FILE = "config.json", "resolved.json"


def kinds() -> as_json.Kinds:
    """The classes of the sections that are of several kinds."""
    return {
        "model": [ModelConfig, *(model.Config for model in models.MODELS)],
        "objective": [objective.Config for objective in objectives.OBJECTIVES],
        "task": [task.Config for task in tasks.TASKS],
    }


def config_from_json(text: str) -> Config:
    """Raises UserError as `as_json.from_json`."""
    return as_json.from_json(text, kinds())


def load_config(workdir: Path) -> Config:
    """What was asked of the run. Raises FileNotFoundError, or UserError with the file's name."""
    return _named(workdir / CONFIG_FILE, config_from_json)


def load_spec(workdir: Path) -> RunSpec:
    """What the run does, with the plain attention kernel: its own may be for a device that is not here.

    Raises:
      FileNotFoundError, UserError: the workdir holds no run, or the file is damaged; names it.
    """
    config = load_config(workdir)
    return _named(workdir / RESOLVED_FILE, lambda text: spec_from_json(text, config))


def write(spec: RunSpec, workdir: Path) -> None:
    """Writes config.json and resolved.json, each by an atomic replacement."""
    for name, content in (CONFIG_FILE, as_json.to_json(spec.config)), (RESOLVED_FILE, spec_to_json(spec)):
        replace_text(workdir / name, content)


def spec_to_json(spec: RunSpec) -> str:
    """What followed from the config, without the config itself."""
    network = spec.network
    fields = {
        "model": as_json.to_dict(network.model),
        network.settings.path: as_json.to_dict(network.settings),
        "rows": spec.rows._asdict(),
        "steps": spec.steps,
        "warmup_steps": spec.warmup_steps,
        "eval_every": spec.eval_every,
        "checkpoint_every": spec.checkpoint_every,
        "best": spec.best.name,
        "kernel": spec.kernels.names,
    }
    if network.teacher is not None:
        model, digest, _ = network.teacher
        fields["teacher"] = {"model": as_json.to_dict(model), "digest": digest}
    return json.dumps(fields, indent=2) + "\n"


def spec_from_json(text: str, config: Config) -> RunSpec:
    """The inverse, but for the kernels. Raises UserError if it is not of a run with this config."""
    try:
        fields = json.loads(text)
        path = "objective" if config.task is None else "task"
        settings = as_json.from_dict(path, fields[path], kinds())
        objective: Objective = next(
            found for found in (*objectives.OBJECTIVES, *tasks.TASKS) if found.Config is type(settings)
        )
        if "teacher" in fields:
            model = as_json.from_dict("model", fields["teacher"]["model"], kinds())
            objective = Distillation(Teacher(model, str(fields["teacher"]["digest"])))
        network = Network(as_json.from_dict("model", fields["model"], kinds()), objective, settings)
        counts = {
            name: int(fields[name]) for name in ("steps", "warmup_steps", "eval_every", "checkpoint_every")
        }
        return RunSpec(
            config=config,
            network=network,
            rows=RowShape(**{name: int(size) for name, size in fields["rows"].items()}),
            best=best_metric(network, fields["best"]),
            kernels=PLAIN,
            **counts,
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not of this version of bert-jax ({error!r})") from error


def _named(file: Path, read: Any) -> Any:
    try:
        return read(file.read_text(encoding="utf-8"))
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing: {file.parent} holds no run, or is damaged") from error
