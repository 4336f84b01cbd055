"""BERT-base uncased, trained on with your own text: domain-adaptive pretraining (Gururangan et al., 2020).

With the files of google-bert/bert-base-uncased (config.json, model.safetensors, vocab.txt, tokenizer.json) in
runs/bert-base-uncased:

    bert-jax prepare  configs/continue_bert_base.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/continue_bert_base.py --workdir runs/my-domain

Tokenizer and model are those of the weights. The paper's 12,500 steps, with a smaller batch and learning rate
than its own 2,048 rows and 5e-4, as is usual for BERT, and no dropout of the attention probabilities, so that
fused attention kernels apply. It is meant for one GPU or a TPU, and was not run to
its end by us: there is no time and no loss to quote.
"""

from pathlib import Path

from bert_jax.config import CheckpointConfig, Config, TokenizerConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_base.py")),
        model={"attention_probs_dropout_prob": 0.0},
        data={
            "dir": "runs/my-domain-data",
            "tokenizer": TokenizerConfig(kind="wordpiece", vocab_file="runs/bert-base-uncased/vocab.txt"),
        },
        optimizer={"warmup_steps": 0.06, "end_learning_rate": 0.0},
        train={"steps": 12_500, "eval_every": 1_000, "eval_batches": None},
        checkpoint=CheckpointConfig(),
        init={"source": "runs/bert-base-uncased"},
    )
