r"""Multi-label classification: any number of labels for a text, or for two (topics, toxicity, emotions).

    bert-jax finetune configs/finetune_multi_label.py --init.source runs/my-bert \
        --task.train train.jsonl --task.validation validation.jsonl --workdir runs/my-topics
    bert-jax predict runs/my-topics < texts.txt

A line of the JSONL is {"sentence": "...", "labels": ["a", "b"]}, with an empty list where a text has none; in
a TSV the names have commas between them. --task.text and --task.label name other columns, --task.pair a
second text. The values are those of BERT's paper (Devlin et al. 2018, appendix A.3).

For one GPU, or a CPU where encoder and data are small. Tests train it on small examples; it was not run on a
published data set by us, so there is no time and no score to quote.
"""

from bert_jax.config import Config, ModelConfig, MultiLabelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=3e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=MultiLabelConfig(epochs=3.0, warmup=0.1, sequence_length=128, dropout=0.1),
    )
