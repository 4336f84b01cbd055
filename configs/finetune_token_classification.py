r"""A label for each word (named entities, parts of speech).

    bert-jax finetune configs/finetune_token_classification.py --init.source runs/my-bert \
        --task.train train.conll --task.validation validation.conll --workdir runs/my-entities
    bert-jax predict runs/my-entities < sentences.txt

A .conll has a word a line, its label in the last column, and a blank line between sentences. Labels in the
BIO scheme are scored by entity. The values are those of BERT's paper (Devlin et al. 2018, appendix A.3).

For one GPU, or a CPU where encoder and data are small. Tests train it on small examples; it was not run on a
published data set by us, so there is no time and no score to quote.
"""

from bert_jax.config import Config, ModelConfig, OptimizerConfig, TokenClassificationConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=TokenClassificationConfig(
            text="tokens", label="ner", epochs=3.0, warmup=0.1, sequence_length=128, dropout=0.1
        ),
    )
