"""BERT-tiny (2 layers of 128; Turc et al., 2019) on a few megabytes of text: minutes on two CPU cores.

    bert-jax prepare  configs/tiny.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/tiny.py --workdir runs/tiny --data.source 'files:corpus/*.txt.gz'

Small batches and many masks, because so small a model on so little text is short of steps: 40 % as Wettig et
al. (2023) found best. What came out, and what it is worth for a task: docs/results.md.
"""

from bert_jax.config import (
    BertConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    MaskingConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=BertConfig(
            vocab_size=8192,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            initializer_range=0.05,  # 0.02 is for a hidden size of 768; sqrt(768 / 128) times that
            hidden_dropout_prob=0.0,  # a few epochs do not overfit
            attention_probs_dropout_prob=0.0,
            scan_unroll=2,
        ),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/tiny-data",
            sequence_length=64,
            input_format="full_sentences",
            max_sequences_per_row=2,
            validation_fraction=0.02,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=8192),
            masking=MaskingConfig(rate=0.4, max_predictions=26),
        ),
        optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=0.05, b2=0.98),
        train=TrainConfig(steps=8000, global_batch_size=32, log_every=100, eval_every=1000),
        checkpoint=CheckpointConfig(every=1000),
    )
