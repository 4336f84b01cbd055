"""Preparing and loading data, ours and Hugging Face's side by side: same text, same core, one run.

    python -m tests.benchmarks.data [--corpus GLOB] [--seconds N] [--repeats N]

prints the MB of UTF-8 text prepared a second, the rows loaded a second, and peak memory, next to the goals.
It needs Linux and the extra `benchmark`.

Every measurement is a process of its own, bound to one core, so that neither memory nor imports nor threads
mix; its clock runs after the imports. A round measures everything, ours and theirs in turn; the tables have
the median of the rounds and, in brackets, the extremes.

Hugging Face is used as its run_mlm.py uses it: `datasets` maps the fast tokenizer and then group_texts over
the text; a shuffled DataLoader and DataCollatorForLanguageModeling read the rows. In doubt, it gets the
benefit: whole documents as examples, faster than the lines that run_mlm.py takes from a text file; a clock
that stops when map has written the rows, before save_to_disk copies them; and special_tokens_mask for the
collator, which Trainer drops and the collator then has to work out again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Only what is light: a new process counts the memory of the one that started it in its peak.
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared/data/corpus"
BATCH = 256
WARM_UP = 10
"""Batches read before the clock starts."""
STRATEGIES = typing.get_args(typing.get_type_hints(MaskingConfig)["strategy"])
PACKAGES = ("datasets", "transformers", "tokenizers", "torch", "sentencepiece", "tensorflow", "numpy")
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
)

# The tasks, each run in a process of its own. `folder` holds the corpus, the tokenizers and the datasets.

Result = dict[str, Any]
Task = tuple[str, dict[str, Any]]
"""Name and arguments."""


def set_up(folder: Path, source: str) -> Result:
    """Writes the corpus as one text file, which both sides read, and trains a tokenizer of each kind."""
    from data_pipeline import tokenizer
    from data_pipeline.corpus import documents

    count = 0
    with (folder / "corpus.txt").open("w", encoding="utf-8") as file:
        for document in documents(source):
            file.writelines(f"{line}\n" for line in [*document.lines, ""])
            count += 1
    lines = [line for document in documents(f"files:{folder}/corpus.txt") for line in document.lines]
    for kind in ("unigram", "wordpiece"):
        tokenizer.train(TokenizerConfig(kind=kind), lambda: lines).save(folder / kind)
    return {"documents": count}


def prepare_ours(folder: Path, name: str, length: int, kind: str, input_format: str) -> Result:
    import tensorflow_datasets  # noqa: F401  prepare imports it to write

    from data_pipeline.prepare import prepare

    config = our_config(folder, name, length, kind, input_format, "token")
    shutil.rmtree(config.dir, ignore_errors=True)
    start = time.perf_counter()
    prepare(config)
    return {"rate": megabytes(folder) / (time.perf_counter() - start)}


def prepare_theirs(folder: Path, name: str, length: int, sample_by: str, offsets: bool) -> Result:
    """`sample_by` is "line", or "paragraph" for what is between empty lines: a document. `offsets` adds each
    token's place in the text, by which their collator finds whole words."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "wordpiece")

    def tokenize(examples: dict[str, list]) -> dict[str, list]:
        return tokenizer(examples["text"], return_special_tokens_mask=True, return_offsets_mapping=offsets)

    def group_texts(examples: dict[str, list]) -> dict[str, list]:
        joined = {column: list(itertools.chain(*values)) for column, values in examples.items()}
        starts = range(0, len(joined["input_ids"]) - length + 1, length)
        return {column: [values[i : i + length] for i in starts] for column, values in joined.items()}

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        text = {"data_files": str(folder / "corpus.txt"), "sample_by": sample_by}
        start = time.perf_counter()
        examples = datasets.load_dataset("text", split="train", cache_dir=cache, **text)
        # 100 documents at a time, not the default of 1,000: a tenth faster.
        tokens = examples.map(tokenize, batched=True, batch_size=100, remove_columns=["text"])
        rows = tokens.map(group_texts, batched=True)
        seconds = time.perf_counter() - start
        rows.save_to_disk(folder / name)
    return {"rate": megabytes(folder) / seconds}


def load_ours(folder: Path, name: str, length: int, strategy: str, seconds: float) -> Result:
    from data_pipeline.loader import Loader

    config = our_config(folder, name, length, "wordpiece", "full_sentences", strategy)
    with Loader(config, split="train", batch_size=BATCH) as loader:
        return {"rate": rows_per_second((len(batch["token_ids"]) for batch in loader), seconds)}


def load_theirs(folder: Path, name: str, strategy: str, seconds: float) -> Result:
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "wordpiece")
    whole_words = strategy == "whole_word"
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, whole_word_mask=whole_words)
    rows = datasets.load_from_disk(folder / name)
    # Without workers, which on the same core would only add the cost of passing batches on.
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True, collate_fn=collator)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return {"rate": rows_per_second((len(batch["input_ids"]) for batch in batches), seconds)}


def our_config(
    folder: Path, name: str, length: int, kind: str, input_format: str, strategy: str
) -> DataConfig:
    native = "vocab.txt" if kind == "wordpiece" else "spiece.model"
    return DataConfig(
        source=f"files:{folder}/corpus.txt",
        dir=str(folder / name),
        sequence_length=length,
        input_format=input_format,
        tokenizer=TokenizerConfig(kind=kind, vocab_file=str(folder / kind / native)),
        masking=MaskingConfig(strategy=strategy, max_predictions=round(0.15 * length)),
    )


def rows_per_second(sizes: Iterator[int], seconds: float) -> float:
    for _ in range(WARM_UP):
        next(sizes)
    start, rows = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        rows += next(sizes)
    return rows / elapsed


def megabytes(folder: Path) -> float:
    return (folder / "corpus.txt").stat().st_size / 1e6


TASKS = {task.__name__: task for task in (set_up, prepare_ours, prepare_theirs, load_ours, load_theirs)}


def run_here(name: str, folder: str, arguments: str) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    result = TASKS[name](Path(folder), **json.loads(arguments))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps(result | {"memory": peak * 1024 / 1e6}))


# The process that measures: it starts the tasks and prints.

Row = tuple[str, Task, Task | None, str]
"""Of a table: label, ours, theirs, goal."""


def run(folder: Path, task: Task) -> Result:
    name, arguments = task
    print(name, *arguments.values(), file=sys.stderr)
    # As a module, from the root: the code beside this file is measured, whatever is installed.
    command = [sys.executable, "-m", "tests.benchmarks.data", "--task", name, folder, json.dumps(arguments)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{folder}/huggingface"}
    environment = os.environ | ONE_THREAD | offline
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{name} {arguments} failed")
    return json.loads(done.stdout.splitlines()[-1])


def preparation() -> list[Row]:
    def row(kind: str, input_format: str, goal: str, sample_by: str = "paragraph") -> Row:
        ours = {"name": "ours", "length": 128, "kind": kind, "input_format": input_format}
        theirs = {"name": "theirs", "length": 128, "sample_by": sample_by, "offsets": False}
        label = f"{kind}, {input_format}" + ", theirs by line" * (sample_by == "line")
        return label, ("prepare_ours", ours), ("prepare_theirs", theirs), goal

    return [
        row("unigram", "next_sentence", "3 MB/s"),
        row("unigram", "full_sentences", "3 MB/s"),
        row("wordpiece", "next_sentence", "1 x; 8 x 0.25 MB/s"),
        row("wordpiece", "full_sentences", "1 x; 8 x 0.25 MB/s"),
        row("wordpiece", "full_sentences", "1 x; 8 x 0.25 MB/s", sample_by="line"),
    ]


def loading(folder: Path, seconds: float) -> list[Row]:
    """Prepares the datasets to read, and says what to measure."""
    rates = {"token": "25,000 rows/s", "whole_word": "15,000 rows/s", "span": "15,000 rows/s"}
    rows: list[Row] = []
    for length in (128, 512):
        ours = {"name": f"ours-{length}", "length": length}
        run(folder, ("prepare_ours", ours | {"kind": "wordpiece", "input_format": "full_sentences"}))
        for strategy in STRATEGIES:
            goals = [rates[strategy]] if length == 128 else []
            reading = {"strategy": strategy, "seconds": seconds}
            theirs = None
            if strategy != "span":  # they have no collator that masks spans
                name = {"name": f"theirs-{length}-{strategy}"}
                examples = {"sample_by": "paragraph", "offsets": strategy == "whole_word"}
                run(folder, ("prepare_theirs", name | {"length": length} | examples))
                theirs = ("load_theirs", name | reading)
                goals.append("4 x")
            rows.append((f"S={length}, {strategy}", ("load_ours", ours | reading), theirs, "; ".join(goals)))
    return rows


def print_measured(folder: Path, rows: list[Row], *, repeats: int, decimals: int) -> None:
    """Measures in rounds and prints the table."""
    tasks = [task for _, *both, _ in rows for task in both]
    rounds = [[task and run(folder, task) for task in tasks] for _ in range(repeats)]
    results = list(zip(*rounds, strict=True))

    def median(results: tuple[Result, ...]) -> float:
        return statistics.median(result["rate"] for result in results)

    def cells(results: tuple[Result, ...]) -> tuple[str, str]:
        rates = sorted(result["rate"] for result in results)
        low, middle, high = (f"{value:,.{decimals}f}" for value in (rates[0], median(results), rates[-1]))
        return f"{middle} ({low} to {high})", f"{max(result['memory'] for result in results):,.0f} MB"

    table = [("", "ours", "memory", "Hugging Face", "memory", "goal", "ours / theirs")]
    for (label, _, task, goal), ours, theirs in zip(rows, results[::2], results[1::2], strict=True):
        if task:
            comparison = (*cells(theirs), goal, f"{median(ours) / median(theirs):.2f} x")
        else:
            comparison = ("none", "", goal, "")
        table.append((label, *cells(ours), *comparison))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_machine() -> None:
    models = [s for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith("model name")]
    installed = importlib.metadata.packages_distributions()
    versions = [f"{name} {importlib.metadata.version(installed[name][0])}" for name in PACKAGES]
    print(models[0].partition(": ")[2] if models else platform.machine())
    print(", ".join([f"Python {platform.python_version()}", *versions]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", metavar="GLOB", help="text files, as in data.source files:GLOB")
    parser.add_argument(
        "--seconds", type=float, default=10, help="of reading, for each measurement of loading"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of measuring")
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        run_here(*arguments.task)
        return
    default = f"files:{CORPUS}/*.txt.gz" if CORPUS.is_dir() else "builtin:python-docs"
    source = f"files:{Path(arguments.corpus).absolute()}" if arguments.corpus else default
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        print_machine()
        documents = run(folder, ("set_up", {"source": source}))["documents"]
        print(f"{source}: {megabytes(folder):.2f} MB, {documents:,} documents")
        print("\nPreparation, S=128: MB of text a second. Hugging Face: WordPiece and group_texts.")
        print("google-research/bert: 0.25 MB/s, quoted, not measured here.\n")
        print_measured(folder, preparation(), repeats=arguments.repeats, decimals=2)
        rows = loading(folder, arguments.seconds)
        print(f"\nLoading WordPiece rows of full sentences, {BATCH} in a batch: rows a second.")
        print("Hugging Face's whole words are all replaced by [MASK], and found by the tokens' offsets.\n")
        print_measured(folder, rows, repeats=arguments.repeats, decimals=0)


if __name__ == "__main__":
    main()
