"""The same fine-tuning, by us and by Transformers with dynamic padding: time, and accuracy.

    python -m tests.benchmarks.finetuning --out runs/finetuning [--examples 1600] [--epochs 3]

all-MiniLM-L6-v2 learns to tell news, reviews and speeches of the shared corpus apart, from passages of 5 to
108 words. Both sides have the same examples, AdamW, schedule, clipping and dropout, and are scored after each
epoch. Transformers' is a plain loop in PyTorch, with the fused AdamW and batches as wide as their longest
text, as DataCollatorWithPadding makes them. The sides take turns as in tests/benchmarks/learning.py; the time
of each is without its imports, ours with its compilations.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.learning import CORPUS, ROOT, start, start_clock, take_turns

GENRES = ("news", "reviews", "speeches")
LONGEST = 108
"""Words of a passage."""
HELD_OUT = 600
BATCH, RATE, WARMUP = 32, 1e-4, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--examples", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.side:
        SIDES[args.side](args.out, epochs=args.epochs)
        return
    args.out.mkdir(parents=True)
    passages = random.Random(0).sample(list(all_passages()), args.examples + HELD_OUT)
    write(args.out / "train.jsonl", passages[HELD_OUT:])
    write(args.out / "validation.jsonl", passages[:HELD_OUT])
    epochs = ("--epochs", str(args.epochs))
    sides = {name: start("tests.benchmarks.finetuning", name, args.out, *epochs) for name in SIDES}
    take_turns(list(sides.values()))
    seconds = {}
    for name, side in sides.items():
        begun = float((args.out / f"{name}.begun").read_text())
        seconds[name] = 3600 * side.hours(begun, at=1000)
        accuracies = json.loads((args.out / f"{name}.json").read_text())
        print(
            f"{name:12s} {seconds[name]:6.0f} s, accuracy by epoch {' '.join(f'{a:.3f}' for a in accuracies)}"
        )
    print(f"time of Transformers to ours: {seconds['transformers'] / seconds['ours']:.2f}")


def all_passages() -> Iterator[tuple[str, str]]:
    """(text, genre): lines of a document, put together up to a length that is drawn for each passage."""
    draw = random.Random(1)
    for genre in GENRES:
        with gzip.open(CORPUS / f"{genre}.txt.gz", "rt") as file:
            words: list[str] = []
            wanted = draw.randint(5, LONGEST)
            for line in file:
                words += line.split()
                if len(words) >= wanted:
                    yield " ".join(words[:wanted]), genre
                    words, wanted = [], min(draw.randint(5, LONGEST), draw.randint(5, LONGEST))


def write(file: Path, passages: list[tuple[str, str]]) -> None:
    lines = (json.dumps({"sentence": text, "label": genre}) for text, genre in passages)
    file.write_text("\n".join(lines) + "\n")


def read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def our_side(out: Path, *, epochs: int) -> None:
    """`bert-jax finetune` in OUT/workdir."""
    from bert_jax.parallel import runtime

    runtime.configure(cache=out / "compiled")
    import tensorflow  # noqa: F401

    from bert_jax.config import delta, load_recipe
    from bert_jax.finetuning.finetune import finetune
    from bert_jax.workdir.metrics_file import read_metrics
    from tests.helpers.examples import MINILM

    config = delta(
        load_recipe(ROOT / "configs/finetune_classification.py"),
        model={"scan_unroll": 6},
        optimizer={"learning_rate": RATE},
        train={"global_batch_size": BATCH},
        init={"source": str(MINILM)},
        task={
            "train": str(out / "train.jsonl"),
            "validation": str(out / "validation.jsonl"),
            "epochs": float(epochs),
            "warmup": WARMUP,
        },
    )
    start_clock("ours", out)
    finetune(config, workdir=out / "workdir", seeds=())
    lines = read_metrics(out / "workdir/metrics.jsonl")
    found = [metrics["accuracy"] for (_, split), metrics in lines.items() if split == "validation"]
    (out / "ours.json").write_text(json.dumps(found))


def transformers_side(out: Path, *, epochs: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    import transformers

    from tests.helpers.examples import MINILM

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=len(GENRES))
    start_clock("transformers", out)

    def examples(name: str) -> list[dict[str, Any]]:
        rows = []
        for line in read(out / f"{name}.jsonl"):
            encoded = tokenizer(line["sentence"], truncation=True, max_length=128)
            rows.append({**encoded, "labels": GENRES.index(line["label"])})
        return rows

    train, validation = examples("train"), examples("validation")
    collate = transformers.DataCollatorWithPadding(tokenizer)

    def loader(rows: list[dict[str, Any]], *, shuffle: bool) -> Any:
        return torch.utils.data.DataLoader(rows, BATCH, shuffle=shuffle, collate_fn=collate)

    steps = epochs * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    accuracies = []
    for _ in range(epochs):
        model.train()
        for batch in loader(train, shuffle=True):
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        model.eval()
        right = 0
        with torch.no_grad():
            for batch in loader(validation, shuffle=False):
                right += int((model(**batch).logits.argmax(dim=-1) == batch["labels"]).sum())
        accuracies.append(right / len(validation))
    (out / "transformers.json").write_text(json.dumps(accuracies))


SIDES = {"ours": our_side, "transformers": transformers_side}

if __name__ == "__main__":
    main()
