"""BERT-base on one GPU, in the spirit of Cramming: one GPU, one day (Geiping and Goldstein 2022).

    bert-jax prepare  configs/cramming.py --data.source 'files:corpus/*.txt.gz'
    bert-jax benchmark configs/cramming.py
    bert-jax pretrain configs/cramming.py --workdir runs/cramming

Theirs, by the files of github.com/JonasGeiping/cramming for its final recipe (train/bert-o3.yaml, batch
4,096; data/c4-subset-processed.yaml): rows of 128 without pairs, 32,768 lower-case pieces, no dropout,
AdamW with peak 1e-3, b2 0.98, epsilon 1e-12, clipping at 0.5; the batch grows over the first 300,000 of
600,000 microbatches, the rate over three quarters of the day, and then falls to zero. As there, the budget
is a day: the rate follows the clock, and ends with it. How many steps a day has on your GPU was not measured
by us, and it was not run by us: `benchmark` tells the seconds of one, for --train.batch-ramp-steps, which
should be half of a day's rows (here of 82 million; it prepares 85 million). Left out: its 16 pre-norm layers
with gated units, without biases and head, sinusoidal positions, the rate's start at a quarter of the peak,
filters and order of the text.
"""

from pathlib import Path

from bert_jax.config import Config, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("academic_budget.py")),
        model={"vocab_size": 32768, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        data={"dir": "runs/cramming-data", "tokenizer": {"vocab_size": 32768}},
        optimizer={"warmup_steps": 0.75, "eps": 1e-12, "clip_norm": 0.5},  # of the time
        train={
            "steps": 30_000,
            "microbatches": 16,
            "batch_ramp": (1024, 2048, 3072),
            "batch_ramp_steps": 20_000,  # half of the rows
        },
    )
