"""The configuration of a run: frozen dataclasses.

Every default lives here or in data_pipeline/config.py. Model fields carry Hugging Face's names. A value that
cannot work raises UserError and names its field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

from data_pipeline.config import DataConfig, MaskingConfig, Section, TaskConfig, TokenizerConfig
from data_pipeline.errors import require

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "InitConfig",
    "MaskingConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TaskConfig",
    "TokenizerConfig",
    "TrainConfig",
]

MOST_STEPS = 2**31 - 1
"""Of a run: they are counted in 32 bits."""


@dataclass(frozen=True)
class ModelConfig(Section):
    """The encoder; defaults are BERT-base uncased."""

    path: ClassVar[str] = "model"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu", "gelu_new", "relu"] = "gelu"
    """gelu is exact (erf), gelu_new its tanh form (google-research/bert)."""
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters are float32 either way."""
    scan_unroll: int = 1
    """Layers compiled as one body: 1 compiles fast, num_hidden_layers runs fastest. Same checkpoint."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """auto: the fastest that this platform, the row length and dropout allow. cudnn is for GPUs, splash for
    TPUs; neither has dropout on the probabilities, and cudnn no packed rows."""
    remat: Literal["none", "dots", "full", "offload"] = "none"
    """What the backward pass computes again to save memory: nothing; all but the products with weights;
    whole layers; as dots, with the products kept in the host's memory."""
    head: Literal["pretraining", "classification", "regression", "tokens", "qa"] = "pretraining"
    """What the model says of a text: words in place of [MASK], and whether sentences follow each other; one
    of several labels; a number; a label for each word; which part of it answers a question."""
    labels: tuple[str, ...] = ()
    """Of classification and tokens. `bert-jax finetune` takes them from the training examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "scan_unroll",
        ):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; it must be at least 1")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model.hidden_size {self.hidden_size} is not divisible by model.num_attention_heads "
            f"{self.num_attention_heads}",
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} is {value}; it must be at least 0 and less than 1")
        require(
            not self.labels or self.head in ("classification", "tokens"),
            f"model.labels are {', '.join(self.labels)}; model.head {self.head!r} has none",
        )
        require(len(set(self.labels)) == len(self.labels), f"model.labels {self.labels} has one twice")

    @property
    def outputs(self) -> int:
        """Logits that a fine-tuned head has for a text, or for a token."""
        match self.head:
            case "pretraining":
                raise AssertionError(self.head)
            case "classification" | "tokens":
                return len(self.labels)
            case "regression":
                return 1
            case "qa":
                return 2  # where the answer begins, and where it ends

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """vocab_size, up to a multiple of 128: matrix units want it. The surplus never wins a softmax."""
        return -(-self.vocab_size // 128) * 128


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW or LAMB, and the learning rate; defaults are BERT's."""

    path: ClassVar[str] = "optimizer"

    name: Literal["adamw", "lamb"] = "adamw"
    """lamb is for batches of tens of thousands of rows."""
    learning_rate: float = 1e-4
    """At the end of the warm-up."""
    warmup_steps: int = 10_000
    """Linear, from 0."""
    schedule: Literal["linear", "polynomial", "cosine", "constant", "inverse_sqrt", "warmup_stable_decay"] = (
        "linear"
    )
    """From the end of the warm-up to train.steps."""
    decay_steps: int = 0
    """Of warmup_stable_decay: the last steps, in which the rate comes down."""
    polynomial_power: float = 0.5
    end_learning_rate: float = 0.0
    """Not of constant and inverse_sqrt."""
    bias_correction: bool = True
    """Of the moments, which start at zero. False: as google-research/bert."""
    mu_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the first moment: bfloat16 saves two bytes a parameter."""
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    """Not applied to biases and LayerNorm."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    layer_decay: float = 1.0
    """The learning rate of a layer is this part of that of the layer above it (Clark et al. 2020); 1: all
    are alike. For fine-tuning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.learning_rate > 0,
            f"optimizer.learning_rate is {self.learning_rate}; it must be positive",
        )
        require(
            self.warmup_steps >= 0,
            f"optimizer.warmup_steps is {self.warmup_steps}; it must be at least 0",
        )
        require(
            (self.decay_steps >= 1) == (self.schedule == "warmup_stable_decay"),
            f"optimizer.decay_steps is {self.decay_steps}; it must be at least 1 with optimizer.schedule "
            f"'warmup_stable_decay' and 0 with any other, here {self.schedule!r}",
        )
        require(self.clip_norm > 0, f"optimizer.clip_norm is {self.clip_norm}; it must be positive")
        require(
            0 < self.layer_decay <= 1,
            f"optimizer.layer_decay is {self.layer_decay}; it must be greater than 0 and at most 1",
        )
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}; it must be at least 0 and less than 1")


@dataclass(frozen=True)
class TrainConfig(Section):
    """The length of the run and what is said on the way."""

    path: ClassVar[str] = "train"

    steps: int = 1_000_000
    """With a budget of tokens or flops it follows from that. With one of hours it is the scale on which
    warmup_steps and decay_steps are parts of the time; how many steps there are, the clock says."""
    budget: str | None = None
    """In place of steps: '24 hours', '3e9 tokens' (columns of rows) or '1e20 flops' (analytic ones)."""
    global_batch_size: int = 256
    """Rows in a step, over all devices and microbatches."""
    microbatches: int = 1
    """Parts that a batch is cut into to save memory; the gradient is the same."""
    batch_ramp: tuple[int, ...] = ()
    """Smaller batches to begin with, in rows: with 64 128 before 256, the noise of early gradients is cheap
    (McCandlish et al. 2018). Their microbatches are no larger than those of the whole batch, but fewer."""
    batch_ramp_steps: int = 0
    """In which the sizes of batch_ramp take equal turns."""
    reduce_dtype: Literal["float32", "bfloat16"] = "float32"
    """In which gradients cross the network between the devices of mesh.data: bfloat16 halves the bytes."""
    dropout_prng: Literal["threefry2x32", "rbg"] = "threefry2x32"
    """rbg is cheaper on a TPU, but then the masks depend on the mesh and the microbatches."""
    seed: int = 0
    """Of initial weights, dropout, the order of rows and the masks."""
    log_every: int = 100
    eval_every: int = 10_000
    eval_batches: int | None = None
    """Validation batches at most; None: every row."""
    stop_at: int | None = None
    """Leave at this step, with the schedule unchanged; the same command without it goes on."""
    spike_zscore: float = 10.0
    """The loss spikes when it is so many robust standard deviations above what it was, for three steps."""
    rollbacks: int = 0
    """Spikes that are answered by going back to a checkpoint and on with other rows; others are told of."""
    skips: int = 10
    """Steps in a row without an update, because loss or gradient was not finite, before the run fails."""
    hang_seconds: int = 1800
    """Without progress, until a process ends itself with status 70; 0: never. Compiling counts as none."""

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
        require(self.rollbacks >= 0, f"train.rollbacks is {self.rollbacks}; it must be at least 0")
        require(self.skips >= 1, f"train.skips is {self.skips}; it must be at least 1")
        require(self.hang_seconds >= 0, f"train.hang_seconds is {self.hang_seconds}; it must be at least 0")
        require(0 <= self.seed < 2**63, f"train.seed is {self.seed}; it must be at least 0")
        if not self.is_bought:
            self.check_steps()

    def check_steps(self) -> None:
        """Of train.steps and what is measured by it. Where a budget buys them, once it is known how many.

        Raises:
          UserError: there are too many steps, or too few for what is to be done in them.
        """
        require(self.steps <= MOST_STEPS, f"{self.named_steps} are too many; at most {MOST_STEPS:,} can be")
        require(
            self.stop_at is None or 0 < self.stop_at <= self.most_steps,
            f"train.stop_at is {self.stop_at}; it must be between 1 and {self.named_steps}",
        )
        require(
            self.batch_ramp_steps < self.steps,
            f"train.batch_ramp_steps is {self.batch_ramp_steps}; it must be less than {self.named_steps}",
        )

    @property
    def budget_amount(self) -> tuple[float, str]:
        """Of a budget, number and unit; (0, "") where it is not written like one."""
        number, _, unit = (self.budget or "").strip().partition(" ")
        try:
            return (float(number), unit) if unit in ("hours", "tokens", "flops") else (0.0, "")
        except ValueError:
            return 0.0, ""

    @property
    def hours(self) -> float | None:
        """Of a budget of time; None if the length of the run is known in steps."""
        amount, unit = self.budget_amount
        return amount if unit == "hours" else None

    @property
    def is_bought(self) -> bool:
        """Whether train.steps follows from a budget, as budget.py has it."""
        return self.budget_amount[1] in ("tokens", "flops")

    @property
    def named_steps(self) -> str:
        """With what says how many they are."""
        if self.is_bought:
            return f"the {self.steps:,} steps of train.budget {self.budget!r}"
        return f"train.steps {self.steps}"

    @property
    def length(self) -> str:
        """To read after a number of steps."""
        return f"of {self.steps:,}" if self.hours is None else f"in {self.hours:g} hours"

    @property
    def most_steps(self) -> int:
        """That the run can have."""
        return self.steps if self.hours is None else MOST_STEPS

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
    """When state is saved, and what is kept."""

    path: ClassVar[str] = "checkpoint"

    every: int = 1_000
    """Steps between checkpoints. One is written at the end and on Ctrl-C or SIGTERM too."""
    keep: int = 3
    """The latest ones that stay."""
    keep_every: int | None = None
    """Those of multiples of this step stay for good."""
    keep_best: int = 1
    """Those that stay because they are the best on the validation split."""
    best: str = "loss"
    """The validation metric that says which are: of a loss the lowest, of any other the highest."""
    failures: int = 3
    """Checkpoints in a row that could not be written, before the run fails for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("every", "keep", "keep_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"checkpoint.{name} is {value}; it must be at least 1")
        for name in ("keep_best", "failures"):
            value = getattr(self, name)
            require(value >= 0, f"checkpoint.{name} is {value}; it must be at least 0")


@dataclass(frozen=True)
class InitConfig(Section):
    """What a run starts from."""

    path: ClassVar[str] = "init"

    source: str | None = None
    """A folder with weights: of Hugging Face (config.json, model.safetensors), of google-research/bert
    (bert_config.json, bert_model.ckpt), or another run's workdir. None: random ones. Weights only; step and
    optimizer begin anew."""
    weights: bool = True
    """False: of the source only shape and tokenizer, to see by fine-tuning what its weights are worth."""


@dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init: InitConfig = field(default_factory=InitConfig)
    task: TaskConfig = field(default_factory=TaskConfig)

    def __post_init__(self) -> None:
        require(
            self.data.sequence_length <= self.model.max_position_embeddings,
            f"data.sequence_length {self.data.sequence_length} is longer than model.max_position_embeddings "
            f"{self.model.max_position_embeddings}",
        )
        require(
            self.model.head != "pretraining" or self.data.tokenizer.vocab_size <= self.model.vocab_size,
            f"data.tokenizer.vocab_size {self.data.tokenizer.vocab_size} is larger than model.vocab_size "
            f"{self.model.vocab_size}",
        )
        require(
            self.model.head != "pretraining" or not self.data.has_pairs or self.model.type_vocab_size >= 2,
            f"model.type_vocab_size is {self.model.type_vocab_size}; sentence pairs "
            f"(data.objective {self.data.objective}) need 2",
        )
        require(
            self.model.head == "pretraining" or (self.train.budget is None and not self.train.batch_ramp),
            "train.budget and train.batch_ramp are for pretraining; task.epochs says how long a task takes",
        )
        self._check_attention()
        if not self.train.is_bought:
            self.check_steps()

    def check_steps(self) -> None:
        """As that of TrainConfig, and of the schedule too."""
        self.train.check_steps()
        require(
            self.optimizer.warmup_steps + self.optimizer.decay_steps <= self.train.steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} and optimizer.decay_steps "
            f"{self.optimizer.decay_steps} together pass {self.train.named_steps}",
        )
        require(
            self.optimizer.warmup_steps < self.train.steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} leaves no step of "
            f"{self.train.named_steps}",
        )

    def _check_attention(self) -> None:
        kind, dropout = self.model.attention, self.model.attention_probs_dropout_prob
        require(
            kind in ("auto", "xla") or dropout == 0,
            f"model.attention {kind!r} has no dropout, but model.attention_probs_dropout_prob is {dropout}",
        )
        require(
            kind != "splash" or self.data.sequence_length % 128 == 0,
            f"model.attention 'splash' takes rows of multiples of 128, not data.sequence_length "
            f"{self.data.sequence_length}",
        )
        require(
            kind != "cudnn" or self.data.max_sequences_per_row == 1,
            "model.attention 'cudnn' takes one sequence a row, but data.max_sequences_per_row is "
            f"{self.data.max_sequences_per_row}",
        )
        require(
            kind != "cudnn" or self.model.dtype == "bfloat16",
            f"model.attention 'cudnn' computes in bfloat16, but model.dtype is {self.model.dtype!r}",
        )
