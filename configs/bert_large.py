r"""BERT-large uncased, both phases of Devlin et al. (2018), appendix A.2, on your own text.

First 900,000 steps with rows of 128, then 100,000 with rows of 512:

    bert-jax prepare  configs/bert_large.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/bert_large.py --workdir runs/bert-large

    bert-jax prepare  configs/bert_large.py --data.source 'files:corpus/*.txt.gz' \
        --data.dir runs/bert-large-512-data --data.sequence-length 512 --data.masking.max-predictions 77 \
        --data.tokenizer.vocab-file runs/bert-large-data/tokenizer/vocab.txt
    bert-jax pretrain configs/bert_large.py --workdir runs/bert-large-512 --init.source runs/bert-large \
        --data.dir runs/bert-large-512-data --data.sequence-length 512 --data.masking.max-predictions 77 \
        --train.steps 100000 --optimizer.learning-rate 1.01e-5 --optimizer.end-learning-rate 0 \
        --optimizer.warmup-steps 0

The second phase is a run of its own: weights from the first, Adam's moments from zero, and a rate that goes
on where the first one ends, so that the two are the paper's one decay. Batch, rates, warm-up and dropout
are the paper's; parameters are 336 million (section 3 rounds to 340). It trained for 4 days on 64 TPU
chips. Not run by us to its end: there is no loss to quote, and of time what the TPU's compiler says, at best
9.9 hours and 158 chip-hours for the first phase on 16 chips of v5e, with 8.1 of their 16 GiB:

    bert-jax plan configs/bert_large.py --topology v5e:4x4

Where memory is short: `--train.microbatches 4`, or `--mesh.fsdp 8` to split parameters and optimizer state.
In hours on a pod: configs/bert_large_lamb.py.
"""

from pathlib import Path

from bert_jax.config import Config, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_base.py")),
        model={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "scan_unroll": 24,
        },
        data={"dir": "runs/bert-large-data"},
    )
