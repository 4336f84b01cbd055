"""A recipe of several phases as commands, one after the other: each starts from the weights of the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.cli.data_verbs import Prepare
from bert_jax.cli.flags import compiled_programs
from bert_jax.cli.training_verbs import Pretrain
from bert_jax.config import Config
from bert_jax.parallel.exit_status import OK
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class Check:
    """Says what would refuse a phase before the first one has begun, which may be days earlier."""

    configs: tuple[Config, ...]
    workdir: Path

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.run.pretrain import check

        for config in self.configs:
            check(config)
        return OK


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
    checked: list[Config] = []
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
        # An encoder that comes from a source is the same in all phases, and that of the first is there.
        first = runs[0].config.init if runs else config.init
        checked.append(_from(first.source, config, vocabulary=first.vocabulary))
        if source is not None:
            if not config.init.weights:
                raise UserError("init.weights: a phase goes on from the weights of the one before")
            config = _from(str(source), config)
        source = command.workdir / name
        runs.append(dataclasses.replace(command, config=config, workdir=source))
    checks = [Check(tuple(checked), runs[0].workdir)] if runs else []
    return [*datasets.values(), *checks, *runs]


def _from(source: str | None, config: Config, **others: Any) -> Config:
    return dataclasses.replace(config, init=dataclasses.replace(config.init, source=source, **others))


def _rows(data: DataConfig) -> tuple[object, ...]:
    """What decides which rows a dataset has, beside the text."""
    return data.sequence_length, data.input_format, data.max_sequences_per_row, data.tokenizer
