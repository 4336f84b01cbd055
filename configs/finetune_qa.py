r"""Extractive question answering, as SQuAD 1.1 and 2.0 have it.

    bert-jax finetune configs/finetune_qa.py --init.source runs/my-bert \
        --task.train train-v2.0.json --task.validation dev-v2.0.json --workdir runs/my-answers
    echo '{"question": "Who?", "context": "Ada Lovelace wrote it."}' | bert-jax predict runs/my-answers

Long contexts are read in windows that share 128 tokens. The values are those of BERT's paper for SQuAD
(Devlin et al. 2018, 4.2, and run_squad.py).
"""

from bert_jax.config import Config, ModelConfig, OptimizerConfig, TaskConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(head="qa"),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=TaskConfig(stride=128, longest_answer=30, epochs=2.0, warmup=0.1, sequence_length=384),
    )
