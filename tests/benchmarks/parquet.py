"""One corpus as .jsonl and as Parquet, prepared: MB of text a second, and peak memory.

    python -m tests.benchmarks.parquet [--megabytes 1000] [--repeats 3]

writes a corpus of that size to a folder that is deleted at the end: the documents of ../shared/data/corpus,
or of Python's documentation, again and again, each time with other words in place of some. A measurement is
a process of its own that uses all cores, as `bert-jax prepare` does; the formats take turns. Needs Linux, and
four times the size of the corpus on the disk of TMPDIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.config import DataConfig, TokenizerConfig
from data_pipeline.corpus import documents
from tests.helpers.paths import ROOT, SHARED_DATA

FILES = 8
"""Of each format: cores read a file each."""
ROWS = 10_000
"""In a row group."""
CHANGED = 0.1
"""Share of the words that are others in each copy."""


def write_corpus(folder: Path, *, megabytes: int) -> None:
    """part-N.jsonl and part-N.parquet with the same documents."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([("id", pyarrow.int64()), ("text", pyarrow.string())])
    wanted = megabytes * 1e6 / FILES
    texts = enumerate(_texts())
    for part in range(FILES):
        size = 0
        with (
            (folder / f"part-{part}.jsonl").open("w", encoding="utf-8") as lines,
            parquet.ParquetWriter(folder / f"part-{part}.parquet", schema, compression="zstd") as table,
        ):
            while size < wanted:
                rows = list(itertools.islice(texts, ROWS if megabytes > 100 else 100))
                size += sum(len(text.encode()) for _, text in rows)
                records = [{"id": number, "text": text} for number, text in rows]
                lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                table.write_table(pyarrow.Table.from_pylist(records, schema=schema))


def _texts() -> Iterator[str]:
    source = f"files:{SHARED_DATA}/corpus/*.txt.gz" if SHARED_DATA.is_dir() else "builtin:python-docs"
    originals = ["\n".join(document.lines) for document in documents(source)]
    words = list({word for text in originals[:1000] for word in text.split()})
    rng = random.Random(0)
    while True:
        for text in originals:
            pieces = text.split(" ")
            for _ in range(int(CHANGED * len(pieces)) + 1):
                pieces[rng.randrange(len(pieces))] = rng.choice(words)
            yield " ".join(pieces)


def prepare_here(folder: str, ending: str) -> None:
    """Runs in a process of its own."""
    import tensorflow_datasets  # noqa: F401  prepare imports it to write

    from data_pipeline.prepare import prepare

    config = DataConfig(
        source=f"files:{folder}/part-*.{ending}",
        dir=f"{folder}/prepared-{ending}",
        input_format="full_sentences",
        tokenizer=TokenizerConfig(kind="wordpiece", vocab_file=f"{folder}/tokenizer/vocab.txt"),
    )
    start = time.perf_counter()
    with Peak() as peak:
        manifest = prepare(config)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak.megabytes, "fingerprint": manifest.fingerprint}))


class Peak:
    """The most memory that this process and its workers had at the same time, looked at twice a second."""

    megabytes = 0.0

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self.megabytes = max(self.megabytes, _memory(os.getpid()) / 1e6)


def _memory(process: int) -> float:
    """Proportional set size of a process and its children, in bytes."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        threads = Path(f"/proc/{process}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
    except OSError:  # it has ended
        return 0
    pss = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return pss * 1024 + sum(_memory(int(child)) for child in children)


def measure(folder: Path, ending: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.parquet", "--task", str(folder), ending]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{ending} failed")
    shutil.rmtree(folder / f"prepared-{ending}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="of text")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of measuring")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        prepare_here(*arguments.task)
        return
    from data_pipeline import tokenizer

    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        write_corpus(folder, megabytes=arguments.megabytes)
        lines = [line for text in itertools.islice(_texts(), 2000) for line in text.split("\n")]
        tokenizer.train(TokenizerConfig(kind="wordpiece"), lambda: lines).save(folder / "tokenizer")
        endings = ("jsonl", "parquet")
        for ending in endings:
            size = sum(path.stat().st_size for path in folder.glob(f"*.{ending}"))
            print(f"{ending}: {size / 1e6:,.1f} MB on disk")
        rounds = [{ending: measure(folder, ending) for ending in endings} for _ in range(arguments.repeats)]
        assert len({found["fingerprint"] for one in rounds for found in one.values()}) == 1, "the same rows"
        for ending in endings:
            seconds = sorted(one[ending]["seconds"] for one in rounds)
            peak = max(one[ending]["peak"] for one in rounds)
            rate = arguments.megabytes / statistics.median(seconds)
            print(
                f"{ending:8s} {rate:6.2f} MB/s ({seconds[0]:.1f} to {seconds[-1]:.1f} s), "
                f"{peak:,.0f} MB at the peak, all processes together"
            )


if __name__ == "__main__":
    main()
