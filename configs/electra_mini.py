r"""A small ELECTRA (4 layers of 128, a generator half as wide) on a few megabytes of text and two CPU cores.

    bert-jax prepare  configs/electra_mini.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/electra_mini.py --workdir runs/electra-mini \
        --data.source 'files:corpus/*.txt.gz'
    bert-jax export   --workdir runs/electra-mini --out runs/electra-mini-exported

The encoder of configs/mini.py, on the same rows, trained to detect replaced tokens as in
configs/electra_small.py.
"""

from pathlib import Path

from bert_jax.config import Config, ElectraConfig, RtdConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("mini.py")),
        model=ElectraConfig(
            vocab_size=8192,
            embedding_size=128,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=64,
            initializer_range=0.05,  # as in configs/tiny.py
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            scan_unroll=4,
        ),
        data={"masking": {"mask_fraction": 0.85, "random_fraction": 0.0}},
        objective=RtdConfig(generator_size=0.5),
    )
