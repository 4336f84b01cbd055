r"""Reranking: a cross-encoder that reads two texts at once and says how well they go together.

    bert-jax finetune configs/finetune_reranking.py --init.source runs/my-bert \
        --task.train train.jsonl --task.validation validation.jsonl --workdir runs/my-reranker
    bert-jax predict runs/my-reranker --input pairs.jsonl
    bert-jax export --workdir runs/my-reranker --out my-reranker

and CrossEncoder("my-reranker") opens that folder.

A row has `anchor`, `positive` and one `negative` or more, best what a search brings up first. Where pairs
have a number, configs/finetune_regression.py with --task.pair learns that.

Batch and rate are those of common practice (Sentence Transformers' documentation), not of one paper.
"""

from bert_jax.config import Config, ModelConfig, OptimizerConfig, RerankingConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=2e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=RerankingConfig(epochs=1.0, warmup=0.1, sequence_length=256),
    )
