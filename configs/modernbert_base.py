r"""ModernBERT-base (Warner et al. 2024, arXiv 2412.13663), its three phases, on your own text.

    bert-jax prepare  configs/modernbert_base.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/modernbert_base.py --workdir runs/modernbert

`prepare` writes rows of 1,024 and of 8,192 tokens, with one tokenizer. `pretrain` runs the phases one after
the other, each in a workdir of its own, runs/modernbert/pretraining ..., and starts each from the weights
of the one before; the same command resumes wherever it was left. One phase by itself:

    bert-jax pretrain configs/modernbert_base.py:context_extension \
        --workdir runs/modernbert/context_extension --init.source runs/modernbert/pretraining

- pretraining: 1,719 billion tokens in rows of 1,024, masks at 30 %, batches that grow to 4,608 rows over
  the first 50 billion, warm-up over 3 billion, then a constant rate.
- context_extension: 250 billion in rows of 8,192, the base of the global rotary positions 160,000 in place
  of 10,000, a constant lower rate; the moments of the optimizer are kept.
- decay: 50 billion more, the rate falling as one minus a square root, to a thousandth. On other text: prepare
  it to another data.dir, and run `:decay` by itself.

All figures are those of the authors' configuration files (AnswerDotAI/ModernBERT, branch
pretraining_documentation), StableAdamW with a decay apart from the rate and its output dropout of attention
too. Evaluation masks 15 %, as theirs. It took them 194 hours on 8 H100. Not run by us: there is no loss to
quote; what it needs, a compiler says:

    bert-jax plan configs/modernbert_base.py:pretraining --topology h100:1x8

With `--optimizer.name muon --optimizer.no-decouple-lr --optimizer.weight-decay 0.1` matrices take Muon's
steps at the same rate; the sizes of Ettin are configs/ettin_17m.py to ettin_1b.py.
"""

from bert_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    InitConfig,
    MaskingConfig,
    ModernBertConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
    delta,
)


def get_phases() -> dict[str, Config]:
    pretraining = Config(
        model=ModernBertConfig(
            global_rope_theta=10_000.0, attention_output_dropout=0.1, dtype="bfloat16", scan_unroll=22
        ),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/modernbert-data",
            sequence_length=1024,
            input_format="documents",
            max_sequences_per_row=16,
            validation_fraction=0.001,
            tokenizer=TokenizerConfig(kind="byte_bpe", vocab_size=50368, lowercase=False),
            masking=MaskingConfig(rate=0.3, max_predictions=308),
        ),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=8e-4,
            warmup_steps=3_815,  # 3 billion tokens, at the first size of the batch
            schedule="constant",
            b2=0.98,
            weight_decay=1e-5,
            decouple_lr=True,
            clip_norm=None,
        ),
        train=TrainConfig(
            budget="1719e9 tokens",
            global_batch_size=4608,
            microbatches=12,
            batch_ramp=(768, 1536, 2304, 3072, 3840),
            batch_ramp_steps=21_195,  # 50 billion tokens
            reduce_dtype="bfloat16",
            eval_every=5_000,
            eval_batches=4,
        ),
        checkpoint=CheckpointConfig(every=1_000, keep_every=10_000),
    )
    context_extension = delta(
        pretraining,
        model={"global_rope_theta": 160_000.0},
        data={
            "dir": "runs/modernbert-8k-data",
            "sequence_length": 8192,
            "max_sequences_per_row": 64,
            "tokenizer": {"vocab_file": "runs/modernbert-data/tokenizer/tokenizer.json"},
            "masking": {"max_predictions": 2458},
        },
        optimizer={"learning_rate": 3e-4, "warmup_steps": 0},
        train={
            "seed": 1,  # other rows first
            "budget": "250e9 tokens",
            "global_batch_size": 576,
            "batch_ramp": (),
            "batch_ramp_steps": 0,
        },
        init=InitConfig(optimizer_state=True),
    )
    decay = delta(
        context_extension,
        optimizer={"schedule": "warmup_stable_decay", "decay_steps": 10_596, "end_learning_rate": 3e-7},
        train={"seed": 2, "budget": None, "steps": 10_596},  # 50 billion tokens
    )
    return {"pretraining": pretraining, "context_extension": context_extension, "decay": decay}
