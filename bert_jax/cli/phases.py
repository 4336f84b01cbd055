"""A recipe of several phases as commands, one after the other: each starts from the weights of the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.cli.commands import Prepare, Pretrain
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError


def chained(commands: Mapping[str, Any]) -> list[Any]:
    """The commands that carry out these phases, by name; a single one stays as it is.

    Each run has a workdir of its own, named like its phase, in the one that was given. So the same command
    again resumes the phase that was left and finds those before it done. A dataset that several phases read
    is prepared for the first of them.
    """
    if len(commands) == 1:
        return list(commands.values())
    datasets: dict[str, Prepare] = {}
    runs: list[Pretrain] = []
    source: Path | None = None
    for name, command in commands.items():
        config = command.config
        if isinstance(command, Prepare):
            same = datasets.setdefault(config.data.dir, command)
            if _rows(same.config.data) != _rows(config.data):
                raise UserError(
                    f"data.dir {config.data.dir} is given to phases that read different rows: prepare each "
                    "by its name, as in CONFIG:PHASE"
                )
            continue
        if source is not None:
            init = dataclasses.replace(config.init, source=str(source))
            config = dataclasses.replace(config, init=init)
        source = command.workdir / name
        runs.append(dataclasses.replace(command, config=config, workdir=source))
    return [*datasets.values(), *runs]


def _rows(data: DataConfig) -> tuple[object, ...]:
    """What decides which rows a dataset has, beside the text."""
    return data.sequence_length, data.input_format, data.max_sequences_per_row, data.tokenizer
