r"""Regression: a number for a text, or for two (similarity, ratings).

    bert-jax finetune configs/finetune_regression.py --init.source runs/my-bert \
        --task.train train.tsv --task.validation validation.tsv --workdir runs/my-scores
    bert-jax predict runs/my-scores < texts.txt

A TSV has the columns `sentence` and `label`, a number; --task.text and --task.label name others, --task.pair
a second text. The values are those of BERT's paper (Devlin et al. 2018, appendix A.3).

For one GPU, or a CPU where encoder and data are small. Tests train it on small examples; it was not run on a
published data set by us, so there is no time and no score to quote.
"""

from bert_jax.config import Config, ModelConfig, OptimizerConfig, RegressionConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=3e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=RegressionConfig(epochs=3.0, warmup=0.1, sequence_length=128, dropout=0.1),
    )
