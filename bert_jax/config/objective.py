"""The section `objective`: what an encoder is pretrained for; the objectives are in objectives/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from data_pipeline.config import Section
from data_pipeline.errors import require


@dataclass(frozen=True)
class ObjectiveConfig(Section):
    """A pretraining objective; a task of fine-tuning is one too, see config/task.py."""

    path: ClassVar[str] = "objective"
    kind: ClassVar[str]

    def coefficient(self, loss: str) -> float:
        """By what a loss of this name is multiplied before all are added up; 0: it is left out."""
        return 1.0


@dataclass(frozen=True)
class MlmConfig(ObjectiveConfig):
    """Masked language modelling alone (Liu et al. 2019)."""

    kind: ClassVar[str] = "mlm"


@dataclass(frozen=True)
class MlmNspConfig(ObjectiveConfig):
    """Masked language modelling and next-sentence prediction (Devlin et al. 2018)."""

    kind: ClassVar[str] = "mlm_nsp"


@dataclass(frozen=True)
class MlmSopConfig(ObjectiveConfig):
    """Masked language modelling and sentence-order prediction (Lan et al. 2019)."""

    kind: ClassVar[str] = "mlm_sop"


@dataclass(frozen=True)
class DistillationConfig(ObjectiveConfig):
    """Masked language modelling, and to be like another model, the teacher (Hinton et al. 2015).

    The weight of a loss is what it counts in their sum; 0: it is left out.
    """

    kind: ClassVar[str] = "distillation"

    teacher: str | None = None
    """The model to learn from, with the vocabulary of the data: a folder or a workdir, as for init.source."""
    temperature: float = 2.0
    """Logits are divided by it before predictions are compared: what is unlikely counts for more."""
    mlm_weight: float = 1.0
    """Weight of the loss of predicting the masked tokens themselves."""
    soft_weight: float = 1.0
    """Weight of the divergence from the teacher's predictions at masked positions."""
    hidden_weight: float = 0.0
    """Weight of the squared distance between the teacher's hidden states and a learned projection of those of
    the last layer (Jiao et al. 2019)."""
    relations_weight: float = 0.0
    """Weight of the divergence from how alike the teacher's queries are, its keys and its values, to be
    learned by those of the last layer (MiniLMv2: Wang et al. 2021). With it the others may be 0."""
    relation_heads: int | None = None
    """Heads by which queries, keys and values are compared; None: the attention heads of the teacher."""
    teacher_layer: int | None = None
    """The layer of the teacher, counted from 0, for hidden states and relations; None: the last one."""

    def coefficient(self, loss: str) -> float:
        return getattr(self, f"{loss.removesuffix('_loss')}_weight")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, f"objective.temperature is {self.temperature}; it must be positive")
        for name in ("mlm_weight", "soft_weight", "hidden_weight", "relations_weight"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name} is {value}; it must be at least 0")
        require(
            self.soft_weight + self.hidden_weight + self.relations_weight > 0,
            "objective.soft_weight, hidden_weight and relations_weight are 0: nothing is learned from the "
            "teacher; use objective mlm",
        )
        require(
            self.relation_heads is None or self.relation_heads >= 1,
            f"objective.relation_heads is {self.relation_heads}; it must be at least 1, or None",
        )


@dataclass(frozen=True)
class RtdConfig(ObjectiveConfig):
    """Replaced-token detection (Clark et al. 2020): a small generator fills in masked tokens, and the encoder
    says of each token whether it was replaced."""

    kind: ClassVar[str] = "rtd"

    generator_size: float = 0.25
    """Width of the generator as a part of the encoder's: it has so many of the heads, of the same size, and
    hidden and intermediate size in proportion; as many layers."""
    embeddings: Literal["shared", "gradient_disentangled", "apart"] = "shared"
    """shared: both have the same embeddings. gradient_disentangled: the encoder adds tables of its own to
    those of the generator, and its loss changes only what it adds (He et al. 2021, section 3.3). apart: each
    has its own."""
    mlm_weight: float = 1.0
    """Weight of the generator's loss."""
    rtd_weight: float = 50.0
    """Weight of the encoder's loss, which is small: most tokens are easy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.generator_size <= 1,
            f"objective.generator_size is {self.generator_size}; it must be greater than 0 and at most 1: a "
            "generator is no larger than its discriminator",
        )
        for name in ("mlm_weight", "rtd_weight"):
            value = getattr(self, name)
            require(value > 0, f"objective.{name} is {value}; it must be positive")

    def coefficient(self, loss: str) -> float:
        return {"mlm_loss": self.mlm_weight, "rtd_loss": self.rtd_weight}[loss]


@dataclass(frozen=True)
class RetroMaeConfig(ObjectiveConfig):
    """Masked language modelling, and a first token from which a weak decoder rebuilds the text (Xiao et al.
    2022)."""

    kind: ClassVar[str] = "retromae"

    decoder_rate: float = 0.5
    """Share of the tokens that the decoder does not see, others for each token that it rebuilds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.decoder_rate <= 1,
            f"objective.decoder_rate is {self.decoder_rate}; it must be greater than 0 and at most 1",
        )
