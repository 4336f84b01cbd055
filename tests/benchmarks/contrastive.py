"""The same training for embeddings, by us and by Sentence Transformers' trainer: time, and what is found.

    python -m tests.benchmarks.contrastive --out runs/contrastive [--pairs 3840] [--batch 64]

all-MiniLM-L6-v2 learns from neighbouring passages of the shared corpus, of 24 to 48 words, with all others of
a batch as negatives: one epoch with AdamW, the same rate and warm-up. Sentence Transformers' side is its
SentenceTransformerTrainer with MultipleNegativesRankingLoss. Both are judged by the retrieval of held-out
neighbours. The sides take turns as in tests/benchmarks/learning.py; the time of each is without its imports,
ours with its compilations. With --memory there is one side, ours: a step of so many pairs, and the memory
that the process took at most.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path
from typing import Any

from tests.benchmarks.cores import MINILM, bert_jax
from tests.benchmarks.learning import CORPUS, ROOT, start, start_clock, take_turns
from tests.benchmarks.retrieval import WORDS, lines_of, of_all_genres, write_collection

RATE, WARMUP, TEMPERATURE, LONGEST = 2e-5, 0.1, 0.05, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--pairs", type=int, default=3840)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--memory", action="store_true", help="a step of --pairs, in 256 microbatches")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.side:
        SIDES[args.side](args.out, args.batch)
        return
    args.out.mkdir(parents=True)
    bert_jax("make-pairs", f"files:{CORPUS}/*.txt.gz", "--words", str(WORDS), "--out", f"{args.out}/pairs")
    lines = of_all_genres(args.out / "pairs/train.jsonl", args.pairs)
    (args.out / "train.jsonl").write_text("\n".join(lines) + "\n")
    held_out = lines_of(args.out / "pairs/validation.jsonl")
    (args.out / "validation.jsonl").write_text("\n".join(held_out[:64]) + "\n")
    write_collection(args.out / "held-out", [json.loads(line) for line in held_out])
    if args.memory:
        our_side(args.out, args.pairs, microbatches=256)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{len(lines):,} pairs in a batch: {peak:.2f} GiB at most")
        return

    options = ("--batch", str(args.batch))
    sides = {name: start("tests.benchmarks.contrastive", name, args.out, *options) for name in SIDES}
    take_turns(list(sides.values()))
    from bert_jax.inference.retrieval import evaluate

    seconds = {}
    for name, model in (("", MINILM), *((name, args.out / name) for name in SIDES)):
        found = evaluate(model, files=args.out / "held-out")
        if name:
            seconds[name] = 3600 * sides[name].hours(float((args.out / f"{name}.begun").read_text()), at=1000)
        took = f"{seconds[name]:.0f} s" if name else ""
        print(
            f"{name or 'before':22s} {took:7s} MRR@10 {found['mrr@10']:.4f}, NDCG@10 {found['ndcg@10']:.4f}"
        )
    print(f"time of Sentence Transformers to ours: {seconds['sentence-transformers'] / seconds['ours']:.2f}")


def our_side(out: Path, batch: int, *, microbatches: int = 1) -> None:
    """`bert-jax finetune` and `export`."""
    from bert_jax.parallel import runtime

    runtime.configure(cache=out / "compiled")
    import tensorflow  # noqa: F401

    from bert_jax.config import delta, load_recipe
    from bert_jax.finetuning.finetune import finetune
    from bert_jax.interop.export import export

    config = delta(
        load_recipe(ROOT / "configs/finetune_embedding.py"),
        model={"scan_unroll": 6},
        optimizer={"learning_rate": RATE},
        train={"global_batch_size": batch, "microbatches": microbatches},
        init={"source": str(MINILM)},
        task={
            "train": str(out / "train.jsonl"),
            "validation": str(out / "validation.jsonl"),
            "epochs": 1.0,
            "warmup": WARMUP,
            "temperature": TEMPERATURE,
            "sequence_length": LONGEST,
        },
    )
    start_clock("ours", out)
    finetune(config, workdir=out / "workdir", seeds=())
    export(out / "workdir", out=out / "ours")


def their_side(out: Path, batch: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import datasets
    import sentence_transformers as st
    import torch
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    start_clock("sentence-transformers", out)
    model = st.SentenceTransformer(str(MINILM), device="cpu", local_files_only=True)
    model.max_seq_length = LONGEST
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines_of(out / "train.jsonl")]
    settings = st.SentenceTransformerTrainingArguments(
        output_dir=str(out / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        learning_rate=RATE,
        warmup_steps=round(WARMUP * len(rows) / batch),
        weight_decay=0.01,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    loss = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    trainer = st.SentenceTransformerTrainer(
        model=model, args=settings, train_dataset=datasets.Dataset.from_list(rows), loss=loss
    )
    trainer.train()
    model.save_pretrained(str(out / "sentence-transformers"))


SIDES = {"ours": our_side, "sentence-transformers": their_side}

if __name__ == "__main__":
    main()
