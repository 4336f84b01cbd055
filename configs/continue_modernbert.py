r"""ModernBERT-base, trained on with your own text.

With the files of answerdotai/ModernBERT-base (config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, special_tokens_map.json) in runs/ModernBERT-base:

    bert-jax prepare  configs/continue_modernbert.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/continue_modernbert.py --workdir runs/my-modernbert

Model and tokenizer are those of the weights, and are exported as they came. Any ModernBERT will do: Ettin,
mmBERT, or a run of configs/modernbert_base.py. Which of the phases the weights are from decides how the
rate starts again:

- after the decay, as these and whatever is published as final: the rate has come down to nothing, so it
  warms up again, to less than it was, and comes down once more; that is this recipe.
- before it, as the revisions step... and ext... of Ettin, or runs/modernbert/context_extension: the
  constant rate goes on where it was, and only the end decays: `--optimizer.warmup-steps 0
  --optimizer.learning-rate 3e-4 --optimizer.decay-steps 2000`

Rows of 1,024 tokens; with `--data.sequence-length 8192 --data.masking.max-predictions 2458
--train.global-batch-size 8` as long as the model can. A rate that fits the text is yours to find: not run
to its end by us, there is no time and no loss to quote.
"""

from bert_jax.config import (
    Config,
    DataConfig,
    InitConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(scan_unroll=22),
        data=DataConfig(
            source="files:corpus/*.txt.gz",
            dir="runs/my-modernbert-data",
            sequence_length=1024,
            input_format="documents",
            max_sequences_per_row=16,
            validation_fraction=0.01,
            tokenizer=TokenizerConfig(vocab_file="runs/ModernBERT-base/tokenizer.json"),
            masking=MaskingConfig(rate=0.3, max_predictions=308),
        ),
        optimizer=OptimizerConfig(
            name="stable_adamw",
            learning_rate=1e-4,
            warmup_steps=500,
            schedule="warmup_stable_decay",
            decay_steps=9_500,
            b2=0.98,
            weight_decay=1e-5,
            decouple_lr=True,
            clip_norm=None,
        ),
        train=TrainConfig(steps=10_000, global_batch_size=64, eval_every=500),
        init=InitConfig(source="runs/ModernBERT-base"),
    )
