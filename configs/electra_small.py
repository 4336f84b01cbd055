r"""ELECTRA-small (Clark et al. 2020): replaced-token detection, on your own text.

    bert-jax prepare  configs/electra_small.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/electra_small.py --workdir runs/electra-small
    bert-jax export   --workdir runs/electra-small --out runs/electra-small-exported

Sizes, batch, rate, warm-up, dropout and loss weights are those of Table 6 of the paper and of
configure_pretraining.py in github.com/google-research/electra: a discriminator of 12 layers of 256, a
generator of 12 layers of 64, embeddings of 128 that both share. As there, 85 % of the chosen tokens are
masked and the others stay. The paper trained 4 days on one V100. Not run by us: there is no loss to quote.

OUT is the discriminator (ElectraForPreTraining, or any task), OUT/generator fills in words. What differs:
rows are filled across sentences, without segment B.

The published pair is continued with the generator's folder in that of the discriminator:

    bert-jax prepare  configs/electra_small.py --data.dir runs/electra-more-data \
        --data.tokenizer.vocab-file electra-small/tokenizer.json
    bert-jax pretrain configs/electra_small.py --workdir runs/electra-more --data.dir runs/electra-more-data \
        --data.tokenizer.vocab-file electra-small/tokenizer.json --init.source electra-small \
        --objective.generator-size 1.0 --optimizer.learning-rate 1e-4 --train.steps 100000

with electra-small from google/electra-small-discriminator and electra-small/generator from
google/electra-small-generator, which is as wide. Without the second a new generator is trained, which the
log says.
"""

from pathlib import Path

from bert_jax.config import Config, ElectraConfig, RtdConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_base.py")),
        model=ElectraConfig(dtype="bfloat16", scan_unroll=12),
        data={
            "dir": "runs/electra-small-data",
            "input_format": "full_sentences",
            "masking": {"max_predictions": 19, "mask_fraction": 0.85, "random_fraction": 0.0},
        },
        objective=RtdConfig(),
        optimizer={"learning_rate": 5e-4, "end_learning_rate": 0.0},
        train={"steps": 1_000_000, "global_batch_size": 128},
    )
