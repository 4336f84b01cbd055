"""BERT-base uncased, trained on with your own text: domain-adaptive pretraining (Gururangan et al., 2020).

With the files of google-bert/bert-base-uncased (config.json, model.safetensors, vocab.txt, tokenizer.json) in
runs/bert-base-uncased:

    bert-jax prepare  configs/continue_bert_base.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/continue_bert_base.py --workdir runs/my-domain

Tokenizer and model are those of the weights. The paper's 12,500 steps, with a smaller batch and learning rate
than its own 2,048 rows and 5e-4, as is usual for BERT. It is meant for one GPU or a TPU, and was not run to
its end by us: there is no time and no loss to quote.
"""

from bert_jax.config import (
    Config,
    DataConfig,
    InitConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(dtype="bfloat16", scan_unroll=12),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/my-domain-data",
            sequence_length=128,
            validation_fraction=0.005,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_file="runs/bert-base-uncased/vocab.txt"),
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=750),
        train=TrainConfig(steps=12_500, global_batch_size=256, eval_every=1_000),
        init=InitConfig(source="runs/bert-base-uncased"),
    )
