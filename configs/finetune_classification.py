r"""Sequence classification: a label for a text, or for two (sentiment, topics, entailment).

    bert-jax finetune configs/finetune_classification.py --init.source runs/my-bert \
        --task.train train.tsv --task.validation validation.tsv --workdir runs/my-labels
    bert-jax predict runs/my-labels < texts.txt

A TSV has the columns `sentence` and `label`; --task.text and --task.label name others, --task.pair a second
text. The values are those of BERT's paper (Devlin et al. 2018, appendix A.3), where 2 to 4 epochs and rates
from 2e-5 to 5e-5 were tried for each task.

For one GPU, or a CPU where encoder and data are small: from the weights of all-MiniLM-L6-v2 (6 layers of
384), 2,000 examples of SST-2 at 1e-4 took seven minutes on two cores, for an accuracy of 82.6 % on its
development set (docs/results.md).
"""

from bert_jax.config import ClassificationConfig, Config, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=3e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=ClassificationConfig(epochs=3.0, warmup=0.1, sequence_length=128, dropout=0.1),
    )
