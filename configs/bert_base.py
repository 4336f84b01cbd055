r"""BERT-base uncased, both phases of Devlin et al. (2018), appendix A.2, on your own text.

First 900,000 steps with rows of 128, then 100,000 with rows of 512:

    bert-jax prepare  configs/bert_base.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/bert_base.py --workdir runs/bert-base

    bert-jax prepare  configs/bert_base.py --data.source 'files:corpus/*.txt.gz' \
        --data.dir runs/bert-base-512-data --data.sequence-length 512 --data.masking.max-predictions 77 \
        --data.tokenizer.vocab-file runs/bert-base-data/tokenizer/vocab.txt
    bert-jax pretrain configs/bert_base.py --workdir runs/bert-base-512 --init.source runs/bert-base \
        --data.dir runs/bert-base-512-data --data.sequence-length 512 --data.masking.max-predictions 77 \
        --train.steps 100000 --optimizer.learning-rate 1.01e-5 --optimizer.end-learning-rate 0 \
        --optimizer.warmup-steps 0

The second phase is a run of its own: weights from the first, Adam's moments from zero, and a rate that goes
on where the first one ends, so that the two are the paper's one decay. Batch, rates, warm-up and dropout
are the paper's, 110 million parameters too (section 3). It trained for 4 days on 16 TPU chips. Not run by
us to its end: there is no loss to quote, and of time what the TPU's compiler says, at best 10.5 hours and
84 chip-hours for the first phase on 8 chips of v5e, with 3.3 of their 16 GiB:

    bert-jax plan configs/bert_base.py --topology v5e:2x4 --model.scan-unroll 12

Devices share the batch without a flag; `--mesh.fsdp 4` also splits parameters and optimizer state, and
`--train.microbatches 4` takes less memory.
"""

from bert_jax.config import (
    BertConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    MaskingConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=BertConfig(vocab_size=30522, dtype="bfloat16", scan_unroll=12),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/bert-base-data",
            sequence_length=128,
            validation_fraction=0.005,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=30522),
            masking=MaskingConfig(max_predictions=20),
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4,
            warmup_steps=10_000,
            end_learning_rate=1.01e-5,  # 1e-4 x 100,000 / 990,000: where a decay over a million steps is now
        ),
        train=TrainConfig(steps=900_000, global_batch_size=256, eval_every=10_000, eval_batches=200),
        checkpoint=CheckpointConfig(every=5_000),
    )
