"""Vectors of the same texts, by us and by Sentence Transformers: texts a second, and the same vectors.

    python -m tests.benchmarks.embed --out runs/embed [--texts 4000] [--rounds 3] [--model DIR]

The model is all-MiniLM-L6-v2 unless another folder is given; the texts are lines of the shared corpus, or of
Python's documentation, of one to some hundred words, as they come. Both sides are warm: ours has compiled its
programs. Each is a process with its model in memory that gets the texts in turn, while the other one waits.
Sentence Transformers' side is `encode` with the batch size of 32 that it has, and with larger ones if they
are faster. The table has the median of the rounds; the vectors must agree within 1e-5.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.benchmarks.cores import MINILM, SHARED

SIDES = ("ours", "theirs, 32", "theirs, 128")
TOLERANCE = 1e-5

Make = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for compiled programs")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a folder of Sentence Transformers")
    args = parser.parse_args()
    texts = list(itertools.islice(all_texts(), args.texts))
    context = multiprocessing.get_context("spawn")
    sides: dict[str, Connection] = {}
    for name in SIDES:
        sides[name], other = context.Pipe()
        context.Process(target=serve, args=(name, other, args.out, args.model), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    vectors = {}
    for number in range(args.rounds + 1):
        for name, side in sides.items():
            side.send(texts)
            took, vectors[name] = side.recv()
            if number:  # the first one warms up
                seconds[name].append(took)
    for side in sides.values():
        side.send([])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    words = sum(len(text.split()) for text in texts)
    print(f"{len(texts):,} texts of {words / len(texts):.0f} words, {len(os.sched_getaffinity(0))} cores")
    for name in SIDES:
        spread = f"{min(seconds[name]):.1f} to {max(seconds[name]):.1f}"
        print(f"{name:14s} {len(texts) / median[name]:8.1f} texts a second ({spread} s)")
    best = min(median[name] for name in SIDES[1:])
    apart = max(float(np.abs(vectors["ours"] - vectors[name]).max()) for name in SIDES[1:])
    times = f"{median[SIDES[1]] / median['ours']:.2f}", f"{best / median['ours']:.2f}"
    print(f"ours is {times[0]} times as fast as encode, {times[1]} times as its best")
    print(f"vectors differ by {apart:.1e} at most")
    if apart > TOLERANCE:
        raise SystemExit(f"the vectors differ by more than {TOLERANCE}")


def all_texts() -> Iterator[str]:
    files = sorted((SHARED / "corpus").glob("*.txt.gz"))
    if files:
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(gzip.open(file, "rt")) for file in files]
            for lines in zip(*opened, strict=False):
                yield from (line.strip() for line in lines if line.strip())
        return
    from data_pipeline.corpus import documents

    for document in documents("builtin:python-docs"):
        yield from (line for line in document.lines if line.strip())


def serve(name: str, pipe: Connection, out: Path, model: Path | None) -> None:
    """A side: gets texts, gives the seconds that it took and their vectors."""
    make = our_side(out, model) if name == "ours" else their_side(model, int(name.split()[-1]))
    while texts := pipe.recv():
        begin = time.perf_counter()
        found = make(texts)
        pipe.send((time.perf_counter() - begin, found))


def our_side(out: Path, model: Path | None) -> Make:
    from bert_jax.parallel import runtime

    runtime.configure(cache=out / "compiled")
    from bert_jax.inference.vectors import Vectorizer
    from bert_jax.interop.load import load_embedder

    make = Vectorizer(load_embedder(model or MINILM))
    return lambda texts: np.concatenate([vectors.array_NxD for vectors in make(texts, name="ours")])


def their_side(model: Path | None, batch_size: int) -> Make:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    theirs = SentenceTransformer(str(model or MINILM), device="cpu", local_files_only=True)
    return lambda texts: theirs.encode(texts, batch_size=batch_size, show_progress_bar=False)


if __name__ == "__main__":
    main()
