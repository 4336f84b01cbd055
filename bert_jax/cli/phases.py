"""A recipe of several phases as commands, one after the other: each starts from the weights of the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.cli.commands import Prepare, Pretrain


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
            datasets.setdefault(config.data.dir, command)
            continue
        if source is not None:
            init = dataclasses.replace(config.init, source=str(source))
            config = dataclasses.replace(config, init=init)
        source = command.workdir / name
        runs.append(dataclasses.replace(command, config=config, workdir=source))
    return [*datasets.values(), *runs]
