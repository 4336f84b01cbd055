r"""BERT-base in a day on eight chips of TPU v5e, after Izsak et al. (2021), on an academic budget.

    bert-jax prepare  configs/academic_budget.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/academic_budget.py --workdir runs/day

Theirs, by the command in the README of github.com/IntelLabs/academic-budget-bert: rows of 128 without pairs,
batches of 4,096, AdamW with peak 1e-3, b2 0.98, epsilon 1e-6, dropout 0.1; the rate rises for 6 % of 24
hours, by the clock, and falls to zero until their end. What differs: they train BERT-large with LayerNorm
before each block, on eight GPUs of 12 GB; ours has it after, as BERT, so that the smaller model and clipping
at 1 are the safer choice at this rate. Not run by us: there is no loss to quote. Compiled for the eight
chips it takes 9.7 of 16 GiB; 24.0 hours, 192 chip-hours, have room for 466,000 steps at best, and real runs
reach a third to a half of that:

    bert-jax plan configs/academic_budget.py --topology v5e:2x4

Two other optimizers, not run by us either: Muon at AdamW's rate, 1e-3, with its weight decay of 0.1 (Liu et
al. 2025), and StableAdamW at 8e-4, as ModernBERT-base was trained (Warner et al. 2024, with other batches):

    bert-jax pretrain configs/academic_budget.py --workdir runs/day-muon \
        --optimizer.name muon --optimizer.weight-decay 0.1
    bert-jax pretrain configs/academic_budget.py --workdir runs/day-stable \
        --optimizer.name stable_adamw --optimizer.learning-rate 8e-4 --optimizer.clip-norm None \
        --optimizer.weight-decay 1e-5 --optimizer.decouple-lr
"""

from pathlib import Path

from bert_jax.config import Config, OptimizerConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_base.py")),
        model={"max_position_embeddings": 128},
        data={"dir": "runs/day-data", "input_format": "full_sentences"},
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0.06, b2=0.98),  # of the time
        train={
            "steps": 1_000,
            "budget": "24 hours",
            "global_batch_size": 4096,
            "microbatches": 4,
            "eval_every": 5_000,
            "eval_batches": 25,
        },
        checkpoint={"every": 1_000},
    )
