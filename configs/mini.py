"""A small BERT (4 layers, hidden size 128) on a few megabytes of text: 20 minutes on two CPU cores.

    bert-jax prepare  configs/mini.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/mini.py --workdir runs/mini --data.source 'files:corpus/*.txt.gz'

What it is worth for a task: docs/results.md.
"""

from bert_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            vocab_size=8192,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            initializer_range=0.05,  # 0.02 is for a hidden size of 768; sqrt(768 / 128) times that
            hidden_dropout_prob=0.0,  # a few epochs do not overfit
            attention_probs_dropout_prob=0.0,
            scan_unroll=4,
        ),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/mini-data",
            sequence_length=64,
            objective="full_sentences",
            max_sequences_per_row=2,
            validation_fraction=0.02,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=8192),
            masking=MaskingConfig(max_predictions=10),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=200),
        train=TrainConfig(steps=4000, global_batch_size=64, log_every=100, eval_every=1000),
        checkpoint=CheckpointConfig(every=1000),
    )
