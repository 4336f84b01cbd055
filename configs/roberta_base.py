r"""RoBERTa-base: no sentence pairs, rows of 512 across documents, batches of 2,048 (Liu et al. 2019).

    bert-jax prepare  configs/roberta_base.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/roberta_base.py --workdir runs/roberta-base

The paper's middle setting, the same compute as BERT's million steps of 256: 125,000 steps at 7e-4 (table 3:
perplexity 3.68, MNLI 85.2, SST-2 92.9, on books and Wikipedia). With its larger batch, as published, on ten
times the text:

    bert-jax pretrain configs/roberta_base.py --workdir runs/roberta-base-8k \
        --train.global-batch-size 8192 --train.microbatches 64 --train.steps 500000 \
        --optimizer.learning-rate 6e-4 --optimizer.warmup-steps 24000

Adam, weight decay, dropout and no clipping are of table 9, which has the figures of the larger batch too;
the warm-up of 10,000 and the microbatches, for 8 GPUs of 32 GB, of fairseq (examples/roberta). A vocabulary
of 50,000 adds 15 million parameters to BERT-base (section 4.4). What differs: its BPE is of bytes, ours
SentencePiece's, so perplexities cannot be compared; BERT's LayerNorm epsilon; and no dropout on the attention
probabilities, which fused kernels do not have: at 512 columns they are most of the memory. Not run by us;
compiled for 16 chips of v5e it takes 6.0 of 16 GiB and at best 7.1 hours, 114 chip-hours:

    bert-jax plan configs/roberta_base.py --topology v5e:4x4
"""

from pathlib import Path

from bert_jax.config import Config, OptimizerConfig, TokenizerConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_base.py")),
        model={"vocab_size": 50_000, "attention_probs_dropout_prob": 0.0},
        data={
            "dir": "runs/roberta-base-data",
            "sequence_length": 512,
            "input_format": "full_sentences",  # and so masked language modelling alone
            "tokenizer": TokenizerConfig(kind="bpe", vocab_size=50_000, lowercase=False),
            "masking": {"max_predictions": 77},
        },
        optimizer=OptimizerConfig(
            learning_rate=7e-4, warmup_steps=0.08, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=None
        ),
        train={
            "steps": 125_000,
            "global_batch_size": 2048,
            "microbatches": 16,
            "eval_every": 5_000,
            "eval_batches": 25,
        },
        checkpoint={"every": 1_000},
    )
