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

    def loss_weight(self, loss: str) -> float:
        """What the mean of a loss is multiplied by, before all are added up and minimized."""
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

    def loss_weight(self, loss: str) -> float:
        return {"mlm_loss": self.mlm_weight, "rtd_loss": self.rtd_weight}[loss]
