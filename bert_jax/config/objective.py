"""The section `objective`: what an encoder is pretrained for; the objectives are in objectives/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from data_pipeline.config import Section


@dataclass(frozen=True)
class ObjectiveConfig(Section):
    """A pretraining objective; a task of fine-tuning is one too, see config/task.py."""

    path: ClassVar[str] = "objective"
    kind: ClassVar[str]


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
