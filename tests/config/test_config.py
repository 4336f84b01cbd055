"""Configs: what cannot work is refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bert_jax.config import (
    BertConfig,
    CheckpointConfig,
    ClassificationConfig,
    Config,
    DataConfig,
    EncoderConfig,
    MaskingConfig,
    MeshConfig,
    MlmConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)
from data_pipeline.config import evaluation_masking
from data_pipeline.errors import UserError
from tests.helpers.configs import spec_of


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: BertConfig(hidden_size=100, num_attention_heads=3), "model.hidden_size"),
        (lambda: BertConfig(num_hidden_layers=0), "model.num_hidden_layers"),
        (lambda: BertConfig(hidden_dropout_prob=1.0), "model.hidden_dropout_prob"),
        (lambda: TrainConfig(global_batch_size=30, microbatches=4), "train.global_batch_size"),
        (lambda: Config(train=TrainConfig(steps=20_000, stop_at=20_001)), "train.stop_at"),
        (lambda: OptimizerConfig(learning_rate=0), "optimizer.learning_rate"),
        (lambda: OptimizerConfig(b2=1.0), "optimizer.b2"),
        (
            lambda: OptimizerConfig(weight_decay=float("nan")),
            "optimizer.weight_decay is nan; it must be a fin",
        ),
        (lambda: OptimizerConfig(learning_rate=float("inf")), "optimizer.learning_rate"),
        (lambda: OptimizerConfig(eps=-1.0), "optimizer.eps"),
        (lambda: BertConfig(layer_norm_eps=-1.0), "model.layer_norm_eps"),
        (lambda: Config(objective=ClassificationConfig()), "objective is ClassificationConfig("),
        (lambda: Config(objective="mlm"), "objective is 'mlm'; it must be the config of an objective"),
        (lambda: Config(model=EncoderConfig()), "model is EncoderConfig("),
        (lambda: Config(task=MlmConfig()), "task is MlmConfig()"),
        (lambda: Config(train=OptimizerConfig()), "train is OptimizerConfig("),
        (lambda: MeshConfig(data=0), "mesh.data"),
        (lambda: TrainConfig(eval_batches=0), "train.eval_batches"),
        (lambda: TrainConfig(seed=-1), "train.seed"),
        (lambda: DataConfig(seed=-1), "data.seed"),
        (lambda: MaskingConfig(rate=1.5), "data.masking.rate"),
        (lambda: MaskingConfig(strategy="words"), "data.masking.strategy"),
        (lambda: MaskingConfig(final_rate=0.0, rate_steps=10), "data.masking.final_rate"),
        (lambda: MaskingConfig(final_rate=0.3), "data.masking.rate_steps is 0; with"),
        (lambda: MaskingConfig(rate_steps=10), "data.masking.rate_steps is 10; without"),
        (lambda: MaskingConfig(mask_fraction=0.9, random_fraction=0.2), "data.masking.mask_fraction"),
        (lambda: TokenizerConfig(vocab_size=5), "data.tokenizer.vocab_size"),
        (lambda: DataConfig(source=("files:a", 1)), "data.source"),
        (lambda: DataConfig(weights=[1.0]), "data.weights"),
        (lambda: DataConfig(sequence_length=16), "data.masking.max_predictions"),
        (lambda: DataConfig(sequence_length=512), "data.masking.max_predictions is 20, too few"),
        (
            lambda: DataConfig(masking=MaskingConfig(final_rate=0.3, rate_steps=10)),
            "data.masking.max_predictions is 20, too few for data.masking.final_rate 0.3",
        ),
        (
            lambda: DataConfig(masking=MaskingConfig(rate=0.3, final_rate=0.15, rate_steps=10)),
            "too few for data.masking.rate 0.3 of data.sequence_length 128: set it to 38 or more",
        ),
        (lambda: DataConfig(max_sequences_per_row=100), "data.max_sequences_per_row"),
        (lambda: DataConfig(validation_fraction=1.0), "data.validation_fraction"),
        (lambda: Config(model=BertConfig(max_position_embeddings=127)), "model.max_position_embeddings"),
        (lambda: Config(model=BertConfig(vocab_size=1000)), "data.tokenizer.vocab_size"),
        (lambda: spec_of(Config(model=BertConfig(type_vocab_size=1))), "model.type_vocab_size"),
        (lambda: Config(train=TrainConfig(steps=100)), "optimizer.warmup_steps"),
        (
            lambda: OptimizerConfig(warmup_steps=1.5),
            "warmup_steps is 1.5; it must be at least 0, and a whole number or a",
        ),
        (lambda: OptimizerConfig(warmup_steps=-0.1), "warmup_steps is -0.1; it must be at least 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(build, field):
    with pytest.raises(ValueError, match=re.escape(field)):
        build()


def test_validation_is_masked_as_in_the_paper_whatever_training_does():
    config = DataConfig(masking=MaskingConfig(strategy="span", rate=0.3, max_predictions=40))
    assert config.masking_of("train") == config.masking
    assert config.masking_of("validation") == evaluation_masking(128)
    assert dataclasses.asdict(evaluation_masking(128)) == {
        "strategy": "token",
        "rate": 0.15,
        "final_rate": None,
        "rate_steps": 0,
        "max_predictions": 19,
        "mask_fraction": 0.8,
        "random_fraction": 0.1,
    }
    assert [evaluation_masking(size).max_predictions for size in (8, 512, 4096)] == [1, 77, 614]


def test_the_vocabulary_is_padded_to_a_multiple_of_128():
    assert BertConfig(vocab_size=30522).padded_vocab_size == 30592
    assert BertConfig(vocab_size=4096).padded_vocab_size == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": TrainConfig(steps=20_000)},
            r"train\.steps is 20000, but in a fine-tuning it follows from",
        ),
        ({"train": TrainConfig(eval_every=5)}, r"train\.eval_every is 5, .* follows from task\.evaluations"),
        ({"train": TrainConfig(budget="1 hours")}, r"train\.budget is '1 hours', .* from task\.epochs"),
        ({"optimizer": OptimizerConfig(warmup_steps=7)}, r"optimizer\.warmup_steps is 7, .* task\.warmup"),
        ({"checkpoint": CheckpointConfig(every=7)}, r"checkpoint\.every is 7, .* from task\.evaluations"),
        ({"data": DataConfig(dir="x")}, r"data\.dir is 'x', .* follows from the task: leave it out"),
        ({"data": DataConfig(masking=MaskingConfig(rate=0.1))}, r"data\.masking\.rate is 0\.1"),
        ({"model": BertConfig()}, r"a fine-tuning takes the encoder of init\.source: give it ModelConfig"),
        ({"objective": MlmConfig()}, "objective is for pretraining"),
    ],
)
def test_what_something_else_decides_in_a_finetuning_is_refused_by_name(changes: dict, message: str):
    fine = {"model": ModelConfig(dtype="bfloat16"), "task": ClassificationConfig(epochs=2.0)}
    Config(**fine)
    with pytest.raises(UserError, match=message):
        Config(**fine | changes)
