"""The configuration of a run: what was asked for, as frozen dataclasses; and the same as files."""

from bert_jax.config.sections import (
    CheckpointConfig,
    Config,
    DataConfig,
    InitConfig,
    MaskingConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
    TokenizerConfig,
    TrainConfig,
)

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
