r"""Late interaction: a vector for each token, and texts found by comparing tokens (ColBERT).

    bert-jax make-pairs 'files:corpus/*.txt.gz' --out runs/pairs
    bert-jax finetune configs/finetune_late_interaction.py --init.source runs/my-bert \
        --task.train runs/pairs/train.jsonl --task.validation runs/pairs/validation.jsonl \
        --workdir runs/my-late-interaction
    bert-jax predict runs/my-late-interaction --input pairs.jsonl
    bert-jax export --workdir runs/my-late-interaction --out my-late-interaction

and MultiVectorEncoder("my-late-interaction") of Sentence Transformers opens that folder, or PyLate.

A row has `anchor`, `positive` and any number of `negative`, as for embeddings. Published BERT and ModernBERT
have unused pieces, which tell queries from documents: --task.query-prompt '[unused1]' --task.document-prompt
'[unused2]'.

Lengths are those of Khattab and Zaharia (2020, arXiv 2004.12832, section 4.1), batch and rate those of common
practice (PyLate's documentation), not of one paper.
"""

from bert_jax.config import Config, LateInteractionConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-5),
        train=TrainConfig(global_batch_size=128, log_every=10),
        task=LateInteractionConfig(epochs=1.0, warmup=0.1, sequence_length=180),
    )
