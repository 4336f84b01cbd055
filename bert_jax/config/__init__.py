"""The configuration of a run: what was asked for, as frozen dataclasses. Imports no JAX and no TensorFlow."""

from bert_jax.config.model import BertConfig, EncoderConfig, ModelConfig, ModernBertConfig
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
    QuestionAnsweringConfig,
    RegressionConfig,
    TaskConfig,
    TextTaskConfig,
    TokenClassificationConfig,
)
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig

__all__ = [
    "BertConfig",
    "CheckpointConfig",
    "ClassificationConfig",
    "Config",
    "DataConfig",
    "EncoderConfig",
    "InitConfig",
    "MaskingConfig",
    "MeshConfig",
    "MlmConfig",
    "MlmNspConfig",
    "MlmSopConfig",
    "ModelConfig",
    "ModernBertConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "QuestionAnsweringConfig",
    "RegressionConfig",
    "TaskConfig",
    "TextTaskConfig",
    "TokenClassificationConfig",
    "TokenizerConfig",
    "TrainConfig",
    "delta",
    "load_phases",
    "load_recipe",
]
