r"""Extractive question answering, as SQuAD 1.1 and 2.0 have it.

    bert-jax finetune configs/finetune_question_answering.py --init.source runs/my-bert \
        --task.train train-v2.0.json --task.validation dev-v2.0.json --workdir runs/my-answers
    echo '{"question": "Who?", "context": "Ada Lovelace wrote it."}' | bert-jax predict runs/my-answers

Epochs, batch and rate are those of BERT's paper for SQuAD 1.1 (Devlin et al. 2018, 4.2); for 2.0 it has two
epochs and batches of 48. Rows of 384, answers of 30 tokens at most and a tenth of the steps to warm up are of
google-research/bert's run_squad.py. What differs: its windows of a long context begin 128 tokens apart, ours
share 128 (as in Transformers), so there are fewer.

For one GPU, or a CPU where encoder and data are small. Tests train it on small examples; it was not run on
SQuAD by us, so there is no time and no score to quote.
"""

from bert_jax.config import Config, ModelConfig, OptimizerConfig, QuestionAnsweringConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        train=TrainConfig(global_batch_size=32, log_every=50),
        task=QuestionAnsweringConfig(
            stride=128, longest_answer=30, epochs=3.0, warmup=0.1, sequence_length=384, dropout=0.1
        ),
    )
