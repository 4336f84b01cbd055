r"""RoBERTa-base, trained on with your own text: domain-adaptive pretraining (Gururangan et al., 2020).

With the files of FacebookAI/roberta-base (config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, vocab.json, merges.txt) in runs/roberta-base:

    bert-jax prepare  configs/continue_roberta.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/continue_roberta.py --workdir runs/my-roberta

Tokenizer and model are those of the weights, and are exported as they came. The paper's 12,500 steps, with
batches of 256 rows in place of its 2,048, and so a smaller learning rate than its 5e-4; and no dropout of
the attention probabilities, so that fused attention kernels apply. A RoBERTa of another size, vocabulary or
padding needs the fields of its config.json as flags; which one differs is said. It is meant for one GPU or a
TPU, and was not run to its end by us: there is no time and no loss to quote.
"""

from pathlib import Path

from bert_jax.config import (
    CheckpointConfig,
    Config,
    InitConfig,
    RobertaConfig,
    TokenizerConfig,
    delta,
    load_recipe,
)


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("roberta_base.py")),
        model=RobertaConfig(dtype="bfloat16", scan_unroll=12, attention_probs_dropout_prob=0.0),
        data={
            "dir": "runs/my-roberta-data",
            "tokenizer": TokenizerConfig(vocab_file="runs/roberta-base/tokenizer.json"),
        },
        optimizer={"learning_rate": 1e-4, "warmup_steps": 0.06},
        train={"steps": 12_500, "global_batch_size": 256, "eval_every": 1_000, "eval_batches": None},
        checkpoint=CheckpointConfig(),
        init=InitConfig(source="runs/roberta-base"),
    )
