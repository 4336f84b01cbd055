"""BERT-large uncased, first phase: sequences of 128, as Devlin et al. (2018), appendix A.2, on your own text.

    bert-jax prepare  configs/bert_large.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/bert_large.py --workdir runs/bert-large

336 million parameters, 900,000 steps of 256 rows; the last 100,000 of the paper have rows of 512. It needs
several accelerators; it was not run to its end by us, so there is no time and no loss to quote here. Where
memory is short: `--train.microbatches 4`, or `--mesh.fsdp 8` to split parameters and optimizer state.
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
            vocab_size=30522,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            dtype="bfloat16",
            scan_unroll=24,
        ),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/bert-large-data",
            sequence_length=128,
            validation_fraction=0.005,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=30522),
            masking=MaskingConfig(max_predictions=20),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
        train=TrainConfig(steps=900_000, global_batch_size=256, eval_every=10_000, eval_batches=200),
        checkpoint=CheckpointConfig(every=5_000),
    )
