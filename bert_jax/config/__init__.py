"""The configuration of a run: what was asked for, as frozen dataclasses. Imports no JAX and no TensorFlow."""

from bert_jax.config.model import (
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    EncoderConfig,
    ModelConfig,
    ModernBertConfig,
    PostLNConfig,
    RobertaConfig,
    XlmRobertaConfig,
)
from bert_jax.config.objective import MlmConfig, MlmNspConfig, MlmSopConfig, ObjectiveConfig
from bert_jax.config.recipe import delta, load_phases, load_recipe
from bert_jax.config.sections import (
    CheckpointConfig,
    Config,
    InitConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from bert_jax.config.task import (
    ClassificationConfig,
    MultiLabelConfig,
    QuestionAnsweringConfig,
    RegressionConfig,
    TaskConfig,
    TextTaskConfig,
    TokenClassificationConfig,
)
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig

__all__ = [
    "BertConfig",
    "CamembertConfig",
    "CheckpointConfig",
    "ClassificationConfig",
    "Config",
    "DataConfig",
    "DistilBertConfig",
    "ElectraConfig",
    "EncoderConfig",
    "InitConfig",
    "MaskingConfig",
    "MeshConfig",
    "MlmConfig",
    "MlmNspConfig",
    "MlmSopConfig",
    "ModelConfig",
    "ModernBertConfig",
    "MultiLabelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PostLNConfig",
    "QuestionAnsweringConfig",
    "RegressionConfig",
    "RobertaConfig",
    "TaskConfig",
    "TextTaskConfig",
    "TokenClassificationConfig",
    "TokenizerConfig",
    "TrainConfig",
    "XlmRobertaConfig",
    "delta",
    "load_phases",
    "load_recipe",
]
