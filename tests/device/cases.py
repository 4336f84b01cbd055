"""What is checked and measured on a device: rows, models, batches; at full size, and tiny for a rehearsal."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

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

PIECES = 8192
"""Of the tokenizer that is trained on the text: a small corpus has no more."""
VOCAB_SIZE = 30522
"""Of the models whose speed is measured: BERT's."""


@dataclass(frozen=True)
class Rows:
    """Rows of one shape, prepared and masked by the data pipeline; a file of the folder."""

    name: str
    length: int
    """S: tokens in a row."""
    sequences: int
    """P: sequences packed into a row; 1: one, and padding."""
    count: int

    def data(self, *, source: str = "builtin:python-docs", folder: Path = Path()) -> DataConfig:
        return DataConfig(
            source=source,
            dir=str(folder / self.name),
            sequence_length=self.length,
            max_sequences_per_row=self.sequences,
            tokenizer=TokenizerConfig(kind="wordpiece", vocab_size=PIECES),
            masking=MaskingConfig(max_predictions=round(0.15 * self.length) + 1),
        )


SHORT = Rows("128", 128, 1, 60_000)
"""The pretraining has these, so there are many."""
PADDED = Rows("512", 512, 1, 256)
PACKED = Rows("512-packed", 512, 8, 256)
LONG = Rows("1024-packed", 1024, 16, 128)
ROWS = (SHORT, PADDED, PACKED, LONG)


@dataclass(frozen=True)
class Case:
    """A training step whose speed is measured, ours and PyTorch's in turns."""

    name: str
    rows: Rows
    batch: int
    layers: int
    hidden: int
    attention_dropout: float = 0.0
    """0 as in most recipes of today: fused attention has none. Other dropout is BERT's 0.1, on both sides."""
    whole_head: bool = False
    """Transformers' head as it is shipped, with logits at every position; else only where a token was masked,
    as ours: the same work."""
    vocab_size: int = VOCAB_SIZE

    def config(self) -> Config:
        return Config(
            model=BertConfig(
                vocab_size=self.vocab_size,
                hidden_size=self.hidden,
                num_hidden_layers=self.layers,
                num_attention_heads=self.hidden // 64,
                intermediate_size=4 * self.hidden,
                attention_probs_dropout_prob=self.attention_dropout,
                max_position_embeddings=max(512, self.rows.length),
                scan_unroll=self.layers,
                dtype="bfloat16",
            ),
            data=self.rows.data(),
            train=TrainConfig(global_batch_size=self.batch),
        )

    def tiny(self) -> Case:
        """For a rehearsal: all but the size is the same."""
        return dataclasses.replace(self, batch=2, layers=1, hidden=64, vocab_size=PIECES)


SPEED = (
    Case("BERT-large S=128", SHORT, 128, 24, 1024),
    Case("BERT-base S=512 packed", PACKED, 64, 12, 768),
    Case("BERT-base S=128", SHORT, 256, 12, 768),
    Case("BERT-large S=512 packed", PACKED, 32, 24, 1024),
    Case("BERT-base S=512 padded", PADDED, 64, 12, 768),
    Case("BERT-base S=128, as shipped", SHORT, 256, 12, 768, attention_dropout=0.1, whole_head=True),
    Case("BERT-base S=1024 packed", LONG, 32, 12, 768),
)
"""What says most comes first."""


@dataclass(frozen=True)
class Twenty:
    """Training steps whose losses are compared with those of a CPU."""

    rows: Rows
    batch: int

    STEPS = 20

    def config(self, *, dtype: str) -> Config:
        return Config(
            model=small_model(hidden=128, layers=2, length=self.rows.length, dtype=dtype),
            data=self.rows.data(),
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
            train=TrainConfig(steps=100, global_batch_size=self.batch),
        )


TWENTY = (Twenty(SHORT, 8), Twenty(PACKED, 2))


def small_model(*, hidden: int, layers: int, length: int, dtype: str) -> BertConfig:
    return BertConfig(
        vocab_size=PIECES,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=length,
        initializer_range=0.02 * (768 / hidden) ** 0.5,
        dtype=dtype,  # type: ignore[arg-type]
    )


def pretraining(*, tiny: bool, minutes: float) -> Config:
    """A small BERT that is trained for so long."""
    return Config(
        model=small_model(
            hidden=64 if tiny else 256, layers=2 if tiny else 4, length=SHORT.length, dtype="bfloat16"
        ),
        data=SHORT.data(),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0 if tiny else 400),
        train=TrainConfig(
            steps=8000,  # with a budget of hours the scale of the warm-up alone
            budget=f"{minutes / 60} hours",
            global_batch_size=8 if tiny else 256,
            log_every=1 if tiny else 50,
            eval_every=6 if tiny else 1000,
            eval_batches=4,
            stop_at=12 if tiny else None,
        ),
        checkpoint=CheckpointConfig(every=6 if tiny else 2000),
    )


def resumed(*, tiny: bool) -> Config:
    """The same BERT for a few steps, to be killed on the way."""
    whole = pretraining(tiny=tiny, minutes=1)
    return dataclasses.replace(
        whole,
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
        train=dataclasses.replace(
            whole.train,
            steps=12 if tiny else 100,
            global_batch_size=8 if tiny else 64,  # deterministic scatters are slow on a GPU
            stop_at=None,
            budget=None,
            log_every=1,
            eval_every=6 if tiny else 50,
        ),
        checkpoint=CheckpointConfig(every=4 if tiny else 20),
    )
