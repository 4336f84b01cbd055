"""A small BERT (4 layers, hidden size 128) on a few megabytes of text: 20 minutes on two CPU cores.

    bert-jax prepare  configs/mini.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/mini.py --workdir runs/mini --data.source 'files:corpus/*.txt.gz'

What it is worth for a task: docs/results.md.
"""

from pathlib import Path

from bert_jax.config import Config, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("tiny.py")),
        model={"num_hidden_layers": 4, "scan_unroll": 4},
        data={"dir": "runs/mini-data", "masking": {"rate": 0.15, "max_predictions": 10}},
        optimizer={"learning_rate": 2e-3, "warmup_steps": 0.05, "b2": 0.999},
        train={"steps": 4000, "global_batch_size": 64},
    )
