r"""Embeddings: a vector for a text, close to those of texts that go with it (search, clustering, similarity).

    bert-jax make-pairs 'files:corpus/*.txt.gz' --out runs/pairs
    bert-jax finetune configs/finetune_embedding.py --init.source runs/my-bert \
        --task.train runs/pairs/train.jsonl --task.validation runs/pairs/validation.jsonl \
        --workdir runs/my-embeddings
    bert-jax export --workdir runs/my-embeddings --out my-embeddings

and SentenceTransformer("my-embeddings") opens that folder.

A row has `anchor`, `positive` and any number of `negative`; --task.loss cosent takes two texts and `score`,
margin_mse the scores of a teacher. A .txt is a text a line, which is its own positive under another dropout.
Large batches are better, and fit any memory: --train.global-batch-size 4096 --train.microbatches 64.

Batch and rate are those of common practice (Sentence Transformers' documentation; Wang et al. 2022, arXiv
2212.03533, fine-tuning), not of one paper.
"""

from bert_jax.config import Config, EmbeddingConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=2e-5),
        train=TrainConfig(global_batch_size=256, log_every=10),
        task=EmbeddingConfig(epochs=1.0, warmup=0.1, sequence_length=128),
    )
