r"""A small ModernBERT (4 layers of 128) in three phases, on a few megabytes of text and two CPU cores.

    bert-jax prepare  configs/modernbert_mini.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/modernbert_mini.py --workdir runs/modernbert-mini
    bert-jax export   --workdir runs/modernbert-mini/decay --out runs/modernbert-mini-exported

The phases of configs/modernbert_base.py as small as they go: rows of 64 tokens, then of 512 with another
base of the rotary positions and the optimizer's moments kept, then the decay.
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
            vocab_size=8192,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,  # with its gate as many weights as a BERT's 4 x 128, less a quarter
            max_position_embeddings=512,
            local_attention=64,
            global_rope_theta=10_000.0,
            initializer_range=0.05,  # as in configs/tiny.py
            scan_unroll=4,
        ),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/modernbert-mini-data",
            sequence_length=64,
            input_format="full_sentences",
            max_sequences_per_row=2,
            validation_fraction=0.02,
            tokenizer=TokenizerConfig(kind="byte_bpe", vocab_size=8192, lowercase=False),
            masking=MaskingConfig(rate=0.3, max_predictions=20),
        ),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=2e-3,
            warmup_steps=0.0667,
            schedule="constant",
            b2=0.98,
            weight_decay=1e-5,
            decouple_lr=True,
            clip_norm=None,
        ),
        train=TrainConfig(steps=3000, global_batch_size=64, eval_every=1000),
        checkpoint=CheckpointConfig(every=500),
    )
    context_extension = delta(
        pretraining,
        model={"global_rope_theta": 160_000.0},
        data={
            "dir": "runs/modernbert-mini-long-data",
            "sequence_length": 512,
            "input_format": "documents",
            "max_sequences_per_row": 8,
            "tokenizer": {"vocab_file": "runs/modernbert-mini-data/tokenizer/tokenizer.json"},
            "masking": {"max_predictions": 154},
        },
        optimizer={"learning_rate": 1e-3, "warmup_steps": 0},
        train={"seed": 1, "steps": 300, "global_batch_size": 8, "eval_every": 300},
        init=InitConfig(optimizer_state=True),
    )
    decay = delta(
        context_extension,
        optimizer={"schedule": "warmup_stable_decay", "decay_steps": 300, "end_learning_rate": 1e-6},
        train={"seed": 2},
    )
    return {"pretraining": pretraining, "context_extension": context_extension, "decay": decay}
