"""BERT-base on English Wikipedia, which TFDS keeps prepared in a public bucket.

    export TFDS_DATA_DIR=gs://tfds-data/datasets    # or a folder of yours: TFDS downloads and builds it there
    bert-jax prepare  configs/wikipedia.py
    bert-jax pretrain configs/wikipedia.py --workdir runs/wikipedia

On many machines, with Apache Beam: see docs/data.md. Rows of 512 with up to 8 articles or parts of one, no
pairs, whole words masked at 30 % falling to 15 %. It is meant for eight chips of TPU v5e or more, and was not
run by us, so there is no time and no loss to quote here.
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
        model=ModelConfig(vocab_size=32768, dtype="bfloat16", scan_unroll=12),
        data=DataConfig(
            source="tfds:wikipedia/20230601.en:train:text",
            dir="runs/wikipedia-data",
            sequence_length=512,
            objective="documents",
            max_sequences_per_row=8,
            validation_fraction=0.005,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=32768),
            masking=MaskingConfig(
                strategy="whole_word", rate=0.3, final_rate=0.15, rate_steps=100_000, max_predictions=154
            ),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=10_000),
        train=TrainConfig(steps=250_000, global_batch_size=256, eval_every=10_000, eval_batches=200),
        checkpoint=CheckpointConfig(every=5_000),
    )
