r"""BERT-large in 8,601 steps: LAMB with batches of 65,536 and 32,768 rows (You et al. 2020), on a pod.

First 7,038 steps with rows of 128, then 1,563 with rows of 512:

    bert-jax prepare  configs/bert_large_lamb.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/bert_large_lamb.py --workdir runs/lamb

    bert-jax prepare  configs/bert_large_lamb.py --data.source 'files:corpus/*.txt.gz' \
        --data.dir runs/lamb-512-data --data.sequence-length 512 --data.masking.max-predictions 77 \
        --data.tokenizer.vocab-file runs/lamb-data/tokenizer/vocab.txt
    bert-jax pretrain configs/bert_large_lamb.py --workdir runs/lamb-512 --init.source runs/lamb \
        --data.dir runs/lamb-512-data --data.sequence-length 512 --data.masking.max-predictions 77 \
        --train.global-batch-size 32768 --train.microbatches 32 --train.steps 1563 \
        --optimizer.learning-rate 4e-3 --optimizer.warmup-steps 200

The batches are the paper's (8,599 steps and 76 minutes on a pod of TPU v3, by the abstract of its first
version). Steps, rates, warm-up (28.43 % and 12.8 % of the steps) and the root decay are those of NVIDIA's
DeepLearningExamples (PyTorch/LanguageModeling/BERT: scripts/configs/pretrain_config.sh, schedulers.py),
whose rate falls by 15 and 7 % where the warm-up ends; ours does not jump. The microbatches are for 256
chips of v5e; compiled for them, not run by us, the first phase takes 14.0 of 16 GiB and at best 0.6 hours,
163 chip-hours, the second 13.2 GiB and 0.3 hours, 75 chip-hours (docs/scaling.md):

    bert-jax plan configs/bert_large_lamb.py --topology v5e:16x16
    bert-jax plan configs/bert_large_lamb.py --topology v5e:16x16 --data.sequence-length 512 \
        --data.masking.max-predictions 77 --train.global-batch-size 32768 --train.microbatches 32 \
        --train.steps 1563 --optimizer.warmup-steps 200
"""

from pathlib import Path

from bert_jax.config import Config, OptimizerConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("bert_large.py")),
        model={"scan_unroll": 1},  # less memory than unrolled
        data={"dir": "runs/lamb-data"},
        optimizer=OptimizerConfig(
            name="lamb",
            learning_rate=6e-3,
            warmup_steps=2_000,
            schedule="polynomial",
            polynomial_power=0.5,
        ),
        train={
            "steps": 7_038,
            "global_batch_size": 65_536,
            "microbatches": 8,
            "log_every": 10,
            "eval_every": 500,
            "eval_batches": 4,
        },
        checkpoint={"every": 200},
    )
