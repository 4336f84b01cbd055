"""The configuration of a run: every section, and `Config`, which holds them.

A config is what was asked for, and nobody rewrites it; what follows from it is in training/run_spec.py.
Every default lives in this folder or in data_pipeline/config.py. A value that cannot work raises UserError
and names its field.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar, Literal

from bert_jax.config.model import BertConfig, EncoderConfig, ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.task import TaskConfig
from data_pipeline.config import DataConfig, Section
from data_pipeline.errors import require

MAX_STEPS = 2**31 - 1
"""Steps of a run at most: they are counted in 32 bits."""


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """The optimizer and its learning rate; defaults are BERT's."""

    path: ClassVar[str] = "optimizer"

    name: Literal["adamw", "lamb", "stable_adamw", "muon"] = "adamw"
    """lamb is for batches of tens of thousands of rows. stable_adamw shortens the steps of a tensor whose
    gradient is larger than its second moment says, in place of clip_norm (Wortsman et al. 2023). muon makes
    the steps of matrices orthogonal, at AdamW's rates, and leaves the rest to AdamW (Liu et al. 2025)."""
    learning_rate: float = 1e-4
    """The highest rate, reached at the end of the warm-up."""
    warmup_steps: int | float = 10_000
    """Linear, from 0: in so many steps or, if less than 1, in that share of the steps."""
    schedule: Literal["linear", "polynomial", "cosine", "constant", "inverse_sqrt", "warmup_stable_decay"] = (
        "linear"
    )
    """How the rate changes from the end of the warm-up to train.steps."""
    decay_steps: int = 0
    """The last steps of warmup_stable_decay, in which the rate comes down."""
    polynomial_power: float = 0.5
    end_learning_rate: float = 0.0
    """The rate at train.steps; constant and inverse_sqrt have none."""
    bias_correction: bool = True
    """Whether the moments, which start at zero, are corrected for it. False: as google-research/bert."""
    mu_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the first moment: bfloat16 saves two bytes a parameter."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    """Not applied to biases and LayerNorm."""
    decouple_lr: bool = False
    """Whether weight_decay is multiplied by the rate's part of learning_rate, and not by the rate (Loshchilov
    and Hutter 2019): a weight_decay of 1e-5 is then what 0.01 is otherwise at a learning_rate of 1e-3."""
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this global norm; None: they are not."""
    layer_decay: float = 1.0
    """Layer-wise learning rates: that of a layer is this part of that of the layer above it (Clark et al.
    2020); 1: all are alike. For fine-tuning."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, with this decay a step (0.999), evaluate it beside
    them, as ema_loss ..., and save it for `export --ema`; None: none. It costs four bytes a parameter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.learning_rate > 0,
            f"optimizer.learning_rate is {self.learning_rate}; it must be positive",
        )
        require(
            self.warmup_steps >= 0 and (isinstance(self.warmup_steps, int) or self.warmup_steps < 1),
            f"optimizer.warmup_steps is {self.warmup_steps}; it must be at least 0, and a whole number or a "
            "share of the steps, less than 1",
        )
        require(
            (self.decay_steps >= 1) == (self.schedule == "warmup_stable_decay"),
            f"optimizer.decay_steps is {self.decay_steps}; it must be at least 1 with optimizer.schedule "
            f"'warmup_stable_decay' and 0 with any other, here {self.schedule!r}",
        )
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optimizer.clip_norm is {self.clip_norm}; it must be positive, or None",
        )
        require(
            0 < self.layer_decay <= 1,
            f"optimizer.layer_decay is {self.layer_decay}; it must be greater than 0 and at most 1",
        )
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}; it must be at least 0 and less than 1")
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            f"optimizer.ema_decay is {self.ema_decay}; it must be greater than 0 and less than 1, or None",
        )
        require(
            self.name != "stable_adamw" or self.bias_correction,
            "optimizer.bias_correction is False; optimizer.name 'stable_adamw' needs it",
        )
        require(self.eps > 0, f"optimizer.eps is {self.eps}; it must be positive")
        for name in ("weight_decay", "end_learning_rate", "polynomial_power"):
            value = getattr(self, name)
            require(value >= 0, f"optimizer.{name} is {value}; it must be at least 0")

    def warmup_of(self, steps: int) -> int:
        """The steps of the warm-up in a run of so many."""
        return self.warmup_steps if isinstance(self.warmup_steps, int) else int(self.warmup_steps * steps)


@dataclass(frozen=True)
class TrainConfig(Section):
    """The length of a run, its batches, and what is logged on the way."""

    path: ClassVar[str] = "train"

    steps: int = 1_000_000
    """The steps of the run, unless train.budget gives them. With a budget of hours it is the scale on which
    warmup_steps and decay_steps are parts of the time; how many steps there are, the clock says."""
    budget: str | None = None
    """What the run may cost, in place of steps: '24 hours', '3e9 tokens' (columns of rows) or '1e20 flops'
    (analytic ones)."""
    global_batch_size: int = 256
    """Rows in a step, over all devices and microbatches."""
    microbatches: int = 1
    """Parts that a batch is cut into to save memory; the gradient is the same."""
    batch_ramp: tuple[int, ...] = ()
    """Smaller batches to begin with, in rows: with 64 128 before 256, the noise of early gradients is cheap
    (McCandlish et al. 2018). Their microbatches are no larger than those of the whole batch, but fewer."""
    batch_ramp_steps: int = 0
    """Steps in which the sizes of batch_ramp take equal turns."""
    reduce_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the gradients while they cross the network between the devices of mesh.data: bfloat16 halves
    the bytes."""
    dropout_prng: Literal["threefry2x32", "rbg"] = "threefry2x32"
    """rbg is cheaper on a TPU, but then the masks depend on the mesh and the microbatches."""
    seed: int = 0
    """Decides initial weights, dropout, the order of rows and the masks."""
    log_every: int = 100
    eval_every: int = 10_000
    eval_batches: int | None = None
    """Validation batches at most; None: every row."""
    stop_at: int | None = None
    """Leave at this step, with the schedule unchanged; the same command without it resumes."""
    spike_zscore: float = 10.0
    """The loss spikes when it is so many robust standard deviations above what it was, for three steps."""
    max_rollbacks: int = 0
    """Spikes that are answered by going back to a checkpoint and on with other rows; more are only logged."""
    max_consecutive_skips: int = 10
    """Steps in a row without an update, because loss or gradient was not finite, before the run fails."""
    watchdog_seconds: int = 1800
    """Time without progress, after which a process ends itself with status 70; 0: never. Compiling counts as
    none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "global_batch_size", "microbatches", "log_every", "eval_every"):
            value = getattr(self, name)
            require(value >= 1, f"train.{name} is {value}; it must be at least 1")
        require(
            self.global_batch_size % self.microbatches == 0,
            f"train.global_batch_size {self.global_batch_size} is not divisible by train.microbatches "
            f"{self.microbatches}",
        )
        require(
            self.eval_batches is None or self.eval_batches >= 1,
            f"train.eval_batches is {self.eval_batches}; it must be at least 1, or None for every row",
        )
        require(
            self.budget is None or 0 < self.budget_amount[0] < math.inf,
            f"train.budget is {self.budget!r}; it must be a positive number and hours, tokens or flops, as "
            "in '24 hours'",
        )
        self._check_ramp()
        require(self.spike_zscore > 0, f"train.spike_zscore is {self.spike_zscore}; it must be positive")
        require(
            self.max_rollbacks >= 0, f"train.max_rollbacks is {self.max_rollbacks}; it must be at least 0"
        )
        require(
            self.max_consecutive_skips >= 1,
            f"train.max_consecutive_skips is {self.max_consecutive_skips}; it must be at least 1",
        )
        require(
            self.watchdog_seconds >= 0,
            f"train.watchdog_seconds is {self.watchdog_seconds}; it must be at least 0",
        )
        require(0 <= self.seed < 2**63, f"train.seed is {self.seed}; it must be at least 0")
        require(
            self.steps <= MAX_STEPS, f"train.steps {self.steps} are too many; at most {MAX_STEPS:,} can be"
        )

    @property
    def budget_amount(self) -> tuple[float, str]:
        """Number and unit of the budget; (0, "") where it is not written like one."""
        number, _, unit = (self.budget or "").strip().partition(" ")
        try:
            return (float(number), unit) if unit in ("hours", "tokens", "flops") else (0.0, "")
        except ValueError:
            return 0.0, ""

    @property
    def hours(self) -> float | None:
        """A budget of time; None if the length of the run is known in steps."""
        amount, unit = self.budget_amount
        return amount if unit == "hours" else None

    @property
    def steps_from_budget(self) -> bool:
        """Whether a budget, and not train.steps, says how many steps there are (training/budget.py)."""
        return self.budget_amount[1] in ("tokens", "flops")

    def _check_ramp(self) -> None:
        sizes = (0, *self.batch_ramp, self.global_batch_size)
        require(
            all(smaller < larger for smaller, larger in pairwise(sizes)),
            f"train.batch_ramp is {self.batch_ramp}; its sizes must grow, to less than "
            f"train.global_batch_size {self.global_batch_size}",
        )
        require(
            len(self.batch_ramp) <= self.batch_ramp_steps if self.batch_ramp else self.batch_ramp_steps == 0,
            f"train.batch_ramp_steps is {self.batch_ramp_steps}; it must be 0 without train.batch_ramp, and "
            "with it at least a step for each size",
        )


@dataclass(frozen=True)
class MeshConfig(Section):
    """Devices by axis: rows over data and fsdp, parameters over fsdp and tensor."""

    path: ClassVar[str] = "mesh"

    data: int = -1
    """-1: all devices that the other axes leave."""
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.data >= 1 or self.data == -1,
            f"mesh.data is {self.data}; it must be at least 1, or -1 for all devices left",
        )
        for name in ("fsdp", "tensor"):
            value = getattr(self, name)
            require(value >= 1, f"mesh.{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class CheckpointConfig(Section):
    """When checkpoints are saved, and which of them are kept."""

    path: ClassVar[str] = "checkpoint"

    every: int = 1_000
    """Steps between checkpoints. One is written at the end and on Ctrl-C or SIGTERM too."""
    keep: int = 3
    """How many of the latest ones are kept."""
    keep_every: int | None = None
    """Checkpoints of multiples of this step are kept for good."""
    keep_best: int = 1
    """How many are kept because they are the best on the validation split."""
    best: str | None = None
    """The validation metric that says which are best; None: the loss of a pretraining, the first score of a
    task."""
    max_save_failures: int = 3
    """Checkpoints in a row that could not be written, before the run fails for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("every", "keep", "keep_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"checkpoint.{name} is {value}; it must be at least 1")
        for name in ("keep_best", "max_save_failures"):
            value = getattr(self, name)
            require(value >= 0, f"checkpoint.{name} is {value}; it must be at least 0")


@dataclass(frozen=True)
class InitConfig(Section):
    """Weights that a run starts from."""

    path: ClassVar[str] = "init"

    source: str | None = None
    """A folder with weights: of Hugging Face (config.json, model.safetensors), of google-research/bert
    (bert_config.json, bert_model.ckpt), or another run's workdir. None: random ones. The steps begin anew."""
    optimizer_state: bool = False
    """Whether a run that starts from a workdir goes on with its moments too, rather than with zeros."""
    tile: bool = False
    """Whether the source may be narrower and less deep: its weights then fill the larger ones from their
    centre on (Warner et al. 2024)."""
    layers: tuple[int, ...] = ()
    """Layers of a deeper source, counted from 0, that the layers of the model begin as, one for each: from 12
    to 6 DistilBERT took 0 2 4 7 9 11. None given: all of them."""
    vocabulary: Literal["keep", "transplant", "extend"] = "keep"
    """keep: the dataset has the tokenizer of the source. transplant: it has another one; the embeddings of
    pieces that both have are copied, the others made of the old pieces of their text. extend: it has that of
    the source with more pieces (data.tokenizer.added_tokens). Then model.vocab_size is the dataset's."""
    weights: bool = True
    """False: only shape and tokenizer are taken from the source, to see what its weights are worth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            all(number >= 0 for number in self.layers),
            f"init.layers is {self.layers}; layers are counted from 0",
        )
        require(
            not (self.layers and self.tile),
            "init.layers takes some layers of the source, init.tile makes more of them: give one of the two",
        )


@dataclass(frozen=True)
class Config:
    """Everything that was asked of a run. One with a `task` is a fine-tuning, any other a pretraining."""

    model: ModelConfig = field(default_factory=BertConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig | None = None
    """None: the one that data.input_format is for."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init: InitConfig = field(default_factory=InitConfig)
    task: TaskConfig | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.task is not None:
            self._check_finetuning()
            return
        if isinstance(self.model, EncoderConfig):
            first = self.model.first_position
            require(
                self.data.sequence_length <= self.model.longest,
                f"data.sequence_length {self.data.sequence_length} is longer than "
                f"model.max_position_embeddings {self.model.max_position_embeddings}"
                + (f" less the first {first}, which no token has" if first else ""),
            )
            require(
                self.data.tokenizer.vocab_file is not None
                or self.init.vocabulary != "keep"
                or self.data.tokenizer.vocab_size <= self.model.vocab_size,
                f"data.tokenizer.vocab_size {self.data.tokenizer.vocab_size} is larger than model.vocab_size "
                f"{self.model.vocab_size}",
            )
        if not self.train.steps_from_budget:
            name = f"train.steps {self.train.steps}"
            warmup_steps = self.optimizer.warmup_of(self.train.steps)
            check_steps(self, self.train.steps, warmup_steps=warmup_steps, name=name)

    def _check_kinds(self) -> None:
        """Whether each section is one; those of several kinds are one of the kinds."""
        model, objective, task = self.model, self.objective, self.task
        require(
            type(model) is ModelConfig or getattr(model, "kind", None) is not None,
            f"model is {model!r}; it must be ModelConfig or the config of an encoder, such as BertConfig",
        )
        require(
            objective is None
            or (getattr(objective, "path", None) == "objective" and hasattr(objective, "kind")),
            f"objective is {objective!r}; it must be the config of an objective, such as MlmConfig, or None",
        )
        require(
            task is None or (getattr(task, "path", None) == "task" and hasattr(task, "kind")),
            f"task is {task!r}; it must be the config of a task, such as ClassificationConfig, or None",
        )
        for name in ("data", "optimizer", "train", "mesh", "checkpoint", "init"):
            section = getattr(self, name)
            require(getattr(section, "path", None) == name, f"{name} is {section!r}; it must be its section")

    def _check_finetuning(self) -> None:
        require(self.objective is None, "objective is for pretraining; task says what a fine-tuning is for")
        require(
            type(self.model) is ModelConfig,
            "model says what an encoder is made of, but a fine-tuning takes the encoder of init.source: give "
            "it ModelConfig",
        )
        for name, source in FOLLOWS_IN_FINETUNING.items():
            for field_name, given, default in _leaves(
                name, *(_at(name, config) for config in (self, DEFAULT))
            ):
                require(
                    given == default,
                    f"{field_name} is {given!r}, but in a fine-tuning it follows from {source}: leave it out",
                )


def check_steps(config: Config, steps: int, *, warmup_steps: int, name: str) -> None:
    """Raises UserError if `steps`, called `name`, are too few for what is to be done in them, or too many."""
    train, optimizer = config.train, config.optimizer
    require(steps <= MAX_STEPS, f"{name} are too many; at most {MAX_STEPS:,} can be")
    most = MAX_STEPS if train.hours else steps
    require(
        train.stop_at is None or 0 < train.stop_at <= most,
        f"train.stop_at is {train.stop_at}; it must be between 1 and {name}",
    )
    require(
        train.batch_ramp_steps < steps,
        f"train.batch_ramp_steps is {train.batch_ramp_steps}; it must be less than {name}",
    )
    require(
        warmup_steps + optimizer.decay_steps <= steps,
        f"optimizer.warmup_steps {warmup_steps} and optimizer.decay_steps {optimizer.decay_steps} "
        f"together pass {name}; optimizer.warmup_steps may be a share of the steps, such as 0.01",
    )
    require(
        warmup_steps < steps,
        f"optimizer.warmup_steps {warmup_steps} leaves no step of {name}; it may be a share, such as 0.01",
    )


FOLLOWS_IN_FINETUNING = {
    "train.steps": "task.epochs",
    "train.budget": "task.epochs",
    "train.batch_ramp": "train.global_batch_size",
    "train.batch_ramp_steps": "train.global_batch_size",
    "train.eval_every": "task.evaluations",
    "train.eval_batches": "the task, which is judged by all of its validation examples",
    "checkpoint.every": "task.evaluations",
    "optimizer.warmup_steps": "task.warmup",
    "data": "the task",
    "init.vocabulary": "init.source, whose tokenizer a task takes",
}
"""Fields that something else decides in a fine-tuning, and what: they are refused there, by name."""

DEFAULT = Config()


def _at(path: str, config: Config) -> Any:
    return functools.reduce(getattr, path.split("."), config)


def _leaves(path: str, *values: Any) -> list[tuple[Any, ...]]:
    """Each field at or below `path`, with its values in several configs: (its own path, a value of each)."""
    if not isinstance(values[0], Section):
        return [(path, *values)]
    return [
        leaf
        for f in fields(values[0])  # type: ignore[arg-type]
        for leaf in _leaves(f"{path}.{f.name}", *(getattr(value, f.name) for value in values))
    ]
