"""What a run does: its config, and all that follows from it, from the data and from the devices.

A `RunSpec` is computed once, before anything is written, and nothing in it is stored as if it had been asked
for.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from bert_jax.config import Config, EncoderConfig
from bert_jax.config.sections import MAX_STEPS, check_steps
from bert_jax.objectives import mlm, objective_for
from bert_jax.objectives.distillation import Distillation, Teacher
from bert_jax.objectives.objective import Metric, RowShape
from bert_jax.ops.attention import select_kernels
from bert_jax.ops.attention.kernel import Kernels, Request
from bert_jax.parallel.platform import Platform
from bert_jax.training.batch_ramp import Stage, make_stages, position_at
from bert_jax.training.budget import resolve_budget
from bert_jax.training.network import Network, flops
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError


@dataclass(frozen=True)
class RunSpec:
    config: Config
    """What was asked for."""
    network: Network
    rows: RowShape
    steps: int
    """The scale of the schedule; with a budget of hours the clock ends the run."""
    warmup_steps: int
    eval_every: int
    checkpoint_every: int
    best: Metric
    """Says which checkpoints are best."""
    kernels: Kernels
    """The attention kernels."""

    @property
    def max_steps(self) -> int:
        """Steps that the run can have."""
        return self.steps if self.config.train.hours is None else MAX_STEPS

    @property
    def scanned(self) -> RunSpec:
        """This run with its layers scanned: the state of it is what checkpoints have."""
        model = dataclasses.replace(self.network.model, scan_unroll=1)
        return dataclasses.replace(self, network=self.network._replace(model=model))

    @property
    def manual_axes(self) -> bool:
        """Whether an attention kernel, the teacher's included, cuts mesh axes by hand."""
        teacher = self.network.teacher
        return self.kernels.manual_axes or (teacher is not None and teacher.kernels.manual_axes)

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        return make_stages(self.config.train, max_steps=self.max_steps)

    @property
    def whole_steps(self) -> float:
        """Steps with the whole batch that have as many rows as those of the run."""
        return position_at(self.stages, self.steps) / self.config.train.global_batch_size

    @property
    def step_flops(self) -> float:
        """FLOPs of a step with the whole batch; see `network.flops`."""
        return self.config.train.global_batch_size * flops(self.network, self.rows)

    @property
    def length_description(self) -> str:
        """What follows a number of steps: "of 3,000"."""
        hours = self.config.train.hours
        return f"of {self.steps:,}" if hours is None else f"in {hours:g} hours"


def pretraining_spec(
    config: Config, model: EncoderConfig, platform: Platform, *, teacher: Teacher | None = None
) -> RunSpec:
    """What follows from the config of a pretraining.

    Args:
      model: config.model, or what stands for it: the encoder of init.source.
      teacher: of a distillation; its kernels follow.

    Raises:
      UserError: objective, budget, kernel or best metric cannot be had; names the field.
    """
    network = Network(model, *objective_for(config.objective, input_format=config.data.input_format))
    for reason in (
        network.encoder.refuses(model, config.data),
        network.objective.refuses(network.settings, network.encoder, config.data),
    ):
        if reason is not None:
            raise UserError(reason)
    data, train = config.data, config.train
    if data.sequence_length > model.longest:
        raise UserError(
            f"data.sequence_length is {data.sequence_length}, but the model of init.source "
            f"{config.init.source} has {model.longest} positions"
        )
    rows = RowShape(data.sequence_length, data.masking.max_predictions, data.max_sequences_per_row)
    if teacher is not None:
        network = _with_teacher(network, teacher, data, rows, platform)
    steps = resolve_budget(train, network, rows)
    warmup_steps = config.optimizer.warmup_of(steps)
    if train.steps_from_budget:
        name = f"the {steps:,} steps of train.budget {train.budget!r}"
        check_steps(config, steps, warmup_steps=warmup_steps, name=name)
    return RunSpec(
        config=config,
        network=network,
        rows=rows,
        steps=steps,
        warmup_steps=warmup_steps,
        eval_every=train.eval_every,
        checkpoint_every=config.checkpoint.every,
        best=best_metric(network, config.checkpoint.best),
        kernels=kernels_for(network, rows, platform),
    )


def _with_teacher(
    network: Network, teacher: Teacher, data: DataConfig, rows: RowShape, platform: Platform
) -> Network:
    """Raises UserError if it cannot be the teacher of this network."""
    alone = Network(teacher.model, mlm, mlm.Config())
    kernels = kernels_for(alone, rows, platform, asked="auto")
    objective = Distillation(teacher._replace(kernels=kernels))
    assert isinstance(network.settings, objective.Config)
    if reason := objective.refuses_student(network.settings, network.model, data):
        raise UserError(reason)
    return network._replace(objective=objective)


def best_metric(network: Network, asked: str | None) -> Metric:
    """The metric of that name, or the first one if None; raises UserError if there is none of that name."""
    metrics = network.objective.metrics(network.settings)
    if asked is None:
        return metrics[0]
    found = next((metric for metric in metrics if metric.name == asked), None)
    if found is None:
        names = ", ".join(metric.name for metric in metrics)
        raise UserError(f"checkpoint.best {asked!r} is no validation metric of this run; there are {names}")
    return found


def kernels_for(network: Network, rows: RowShape, platform: Platform, *, asked: str | None = None) -> Kernels:
    """The attention kernels for these rows; raises UserError where the one that was asked for refuses.

    Args:
      asked: None: what model.attention says.
    """
    model = network.model
    request = Request(
        platform=platform.name,
        capability=platform.capability,
        dtype=model.dtype,
        sequence_length=rows.sequence_length,
        head_dim=model.head_dim,
        dropout=network.encoder.attention_dropout(model) > 0,
        packed=rows.max_sequences > 1,
    )
    return select_kernels(asked or model.attention, request, window=network.encoder.window(model))
