"""BERT-base on English Wikipedia, which TFDS keeps prepared in a public bucket.

    export TFDS_DATA_DIR=gs://tfds-data/datasets    # or a folder of yours: TFDS downloads and builds it there
    bert-jax prepare  configs/wikipedia.py
    bert-jax pretrain configs/wikipedia.py --workdir runs/wikipedia

On many machines, with Apache Beam: see docs/data.md. Rows of 512 with up to 8 articles or parts of one, no
pairs, whole words masked at 30 % falling to 15 %, no dropout of the attention probabilities, so that fused
attention kernels apply. It is meant for eight chips of TPU v5e or more, and was not
run by us, so there is no time and no loss to quote here.
"""

from pathlib import Path

from bert_jax.config import Config, MaskingConfig, TokenizerConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_base.py")),
        model={"vocab_size": 32768, "attention_probs_dropout_prob": 0.0},
        data={
            "source": "tfds:wikipedia/20230601.en:train:text",
            "dir": "runs/wikipedia-data",
            "sequence_length": 512,
            "input_format": "documents",
            "max_sequences_per_row": 8,
            "tokenizer": TokenizerConfig(kind="unigram", vocab_size=32768),
            "masking": MaskingConfig(
                strategy="whole_word", rate=0.3, final_rate=0.15, rate_steps=100_000, max_predictions=154
            ),
        },
        optimizer={"learning_rate": 2e-4, "end_learning_rate": 0.0},
        train={"steps": 250_000},
    )
