"""A small BERT on the documentation of your own Python: six minutes on two CPU cores, no download.

    make demo

Or, step by step:

    bert-jax prepare  configs/demo.py
    bert-jax pretrain configs/demo.py --workdir runs/demo

With Python 3.11.7 the held-out MLM loss came down to 4.77 nats, where word frequencies alone give 6.55
(README.md has more of it, docs/curves/demo.jsonl the curve).
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
            vocab_size=4096,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=32,
            initializer_range=0.05,  # 0.02 is for a hidden size of 768; sqrt(768 / 128) times that
            scan_unroll=2,
        ),
        data=DataConfig(
            source="builtin:python-docs",
            dir="runs/demo-data",
            sequence_length=32,  # neighbours are easier to find among few columns: it learns context sooner
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=4096),
            masking=MaskingConfig(max_predictions=5),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=0.0334),
        train=TrainConfig(steps=3000, global_batch_size=64, log_every=50, eval_every=500),
        checkpoint=CheckpointConfig(every=500),
    )
