"""The offline job on one machine: corpus in, prepared dataset out. `bert-jax prepare` calls `prepare`.

The corpus is read once and laid on disk by the hash of its documents (shuffle.py). The tokenizer is trained
on a sample of it. Then every core makes rows, a block of documents at a time, so that memory does not grow
with the corpus. Everything is written to a folder beside `data.dir` and renamed at the end: what is at
`data.dir` is finished.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from etils import epath
from tqdm import tqdm

from data_pipeline import blocks, records, shuffle, tokenizer
from data_pipeline.blocks import Block, Part, Statistics
from data_pipeline.builder import Shard, write_files, write_metadata
from data_pipeline.config import DataConfig
from data_pipeline.corpus import KEY_BITS, Document, Reader, readers
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest
from data_pipeline.tokenizer import Tokenizer

log = logging.getLogger(__name__)

STATISTICS = "statistics.json"

SHARD_CHARACTERS = 256_000_000
"""Text in a file of the dataset, about: some 100 MB of records."""


def prepare(config: DataConfig) -> Manifest:
    """Writes the prepared dataset of `config` to `config.dir` and returns its manifest.

    Needs as much free disk beside `config.dir` as the text has bytes, unpacked, for the time that it runs.

    Raises:
      UserError: the corpus or the tokenizer cannot be used; says why.
      FileExistsError: `config.dir` exists already.
      OSError: the dataset cannot be written.
    """
    if "://" in config.dir:
        raise UserError(
            f"data.dir {config.dir} is in a bucket: one machine writes to a folder, which you can copy there "
            "(or give a --runner of Beam)"
        )
    with unfinished(config) as folder, _workers() as executor:
        return _write(config, Path(folder), executor)


@contextlib.contextmanager
def unfinished(config: DataConfig) -> Iterator[epath.Path]:
    """A folder beside `config.dir` to work in. At the end, what is in its `dataset` becomes `config.dir`.

    After a fault nothing is left. What a killed run left is deleted by the next one.
    """
    directory = epath.Path(config.dir)
    if directory.exists():
        raise FileExistsError(f"data.dir {directory} exists already; delete it, or give another --data.dir")
    folder = directory.with_name(f"{directory.name}.unfinished")
    folder.rmtree(missing_ok=True)
    (folder / "dataset").mkdir(parents=True)
    try:
        yield folder
        (folder / "dataset").rename(directory)
    finally:
        folder.rmtree(missing_ok=True)


def _write(config: DataConfig, folder: Path, executor: Executor) -> Manifest:
    characters, empty = blocks.without_empty(_read(config, folder, executor))
    check(config, characters)
    words = train_tokenizer(config, lambda: _sample(folder, characters))
    words.save(folder / "dataset" / "tokenizer")

    planned = blocks.plan(characters)
    statistics: dict[Part, Statistics] = {}
    tasks = [functools.partial(_records_of_block, config, folder, block) for block in planned]

    def parts() -> Iterator[tuple[Shard, list[bytes]]]:
        done = zip(planned, shards(planned), _in_order(executor, tasks), strict=True)
        with tqdm(
            total=sum(characters.values()), unit="ch", unit_scale=True, desc="rows", disable=None
        ) as bar:
            for block, shard, (rows, counted) in done:
                part = block.source, block.split
                statistics[part] = statistics.get(part, Statistics()) + counted
                bar.update(characters[part] // block.total)
                yield shard, rows

    counts = write_files(folder / "dataset", parts())
    write_metadata(folder / "dataset", counts, dtype=records.token_dtype(words.vocab_size))
    return finish(config, epath.Path(folder / "dataset"), words, statistics, empty=empty)


def _read(config: DataConfig, folder: Path, executor: Executor) -> dict[Part, int]:
    """Lays the documents of every source on disk; returns the size of each part of the corpus."""
    tasks = []
    for number, source in enumerate(config.sources):
        parts = readers(source, text_field=config.text_field)
        groups = min(len(parts), 4 * _cores())
        for group in range(groups):
            path = _folder_of(folder, number) / f"{group}.sqlite"
            path.parent.mkdir(exist_ok=True)
            tasks.append(functools.partial(_read_part, config, number, parts[group::groups], path))
    sizes: Counter[Part] = Counter()
    for counted in tqdm(
        _in_order(executor, tasks), total=len(tasks), unit=" parts", desc="read", disable=None
    ):
        sizes.update(counted)
    return dict(sizes)


def _read_part(config: DataConfig, source: int, parts: list[Reader], path: Path) -> Counter[Part]:
    """Runs in a worker."""
    sizes: Counter[Part] = Counter()

    def documents() -> Iterator[tuple[str, Document]]:
        for reader in parts:
            for document in reader():
                split = blocks.split_of(config, document)
                sizes[source, split] += blocks.size_of(document)
                if split != blocks.NO_TEXT:
                    yield split, document

    shuffle.write(path, documents())
    return sizes


def _records_of_block(config: DataConfig, folder: Path, block: Block) -> tuple[list[bytes], Statistics]:
    """Runs in a worker."""
    paths = sorted(_folder_of(folder, block.source).iterdir())
    documents = shuffle.read(paths, block.split, keys=block.keys)
    words = load_tokenizer(folder / "dataset" / "tokenizer")
    examples, statistics = blocks.examples_of_block(config, block, documents, words)
    return list(map(records.serialize, examples)), statistics


@functools.lru_cache(maxsize=1)
def load_tokenizer(folder: Path | epath.Path) -> Tokenizer:
    """Once in each worker."""
    return tokenizer.load(folder)


def _folder_of(folder: Path, source: int) -> Path:
    return folder / f"source-{source}"


def check(config: DataConfig, characters: dict[Part, int]) -> None:
    """Raises UserError if a source has no text, or none for a split."""
    for number, source in enumerate(config.sources):
        found = {split for part, split in characters if part == number}
        if not found:
            raise UserError(f"data.source {source!r} has no text in it")
        if "train" not in found:
            raise UserError(
                f"data.source {source!r} has no document left for training: a blank line ends a document; "
                "or set data.validation_fraction to 0"
            )
        if config.validation_fraction and "validation" not in found:
            raise UserError(
                f"data.source {source!r} has no document held out: a blank line ends a document; or raise "
                "data.validation_fraction, or set it to 0"
            )


def train_tokenizer(config: DataConfig, lines: tokenizer.Lines) -> Tokenizer:
    if config.tokenizer.vocab_file is None:
        log.info("tokenizer: %s of %d pieces", config.tokenizer.kind, config.tokenizer.vocab_size)
    words = tokenizer.train(config.tokenizer, lines)
    if not words.has_own_frame:
        log.warning(
            "data.tokenizer.vocab_file %s does not put its cls before a text and its sep behind it, as rows "
            "have them: Transformers will not either, unless you give it a post_processor that does",
            config.tokenizer.vocab_file,
        )
    return words


def sampled_keys(characters: Mapping[Part, int]) -> range:
    """The training documents that the tokenizer is trained on: all, or a random part of a large corpus."""
    total = sum(size for (_, split), size in characters.items() if split == "train")
    return range(min(1 << KEY_BITS, (tokenizer.TRAINING_CHARACTERS << KEY_BITS) // total))


def _sample(folder: Path, characters: dict[Part, int]) -> Iterator[str]:
    for source in sorted({source for source, _ in characters}):
        paths = sorted(_folder_of(folder, source).iterdir())
        for document in blocks.unique(shuffle.read(paths, "train", keys=sampled_keys(characters))):
            yield from document.lines


def finish(
    config: DataConfig,
    folder: epath.Path,
    words: Tokenizer,
    statistics: Mapping[Part, Statistics],
    *,
    empty: int,
) -> Manifest:
    """Writes what describes a dataset: the manifest, and the counts that `bert-jax inspect-data` shows.

    Args:
      empty: documents that were left out, having no text.

    Raises:
      UserError: a part of the corpus gives no row.
    """
    for (source, split), counted in statistics.items():
        if not counted.rows:
            raise UserError(f"data.source {config.sources[source]!r} gives no {split} row")
    manifest = Manifest.of(config, words, statistics, empty=empty)
    manifest.save(folder)
    counts = [
        {"source": config.sources[source], "split": split, "counts": counted.to_json()}
        for (source, split), counted in sorted(statistics.items())
    ]
    (folder / STATISTICS).write_text(json.dumps(counts) + "\n")
    return manifest


def shards(planned: list[Block]) -> list[Shard]:
    """The file of each block."""
    blocks_a_shard = SHARD_CHARACTERS // blocks.BLOCK_CHARACTERS
    sizes = Counter(block.split for block in planned)
    placed: Counter[str] = Counter()
    found = []
    for block in planned:
        count = max(1, round(sizes[block.split] / blocks_a_shard))
        found.append(Shard(block.split, placed[block.split] * count // sizes[block.split], count))
        placed[block.split] += 1
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _workers() -> Iterator[Executor]:
    """A process for each core, started when there is work. Not forked: TensorFlow and JAX do not bear it."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_cores(), mp_context=context, initializer=_start_worker) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()  # it may be in the middle of a file of many gigabytes
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores have workers of their own
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_with_the_parent() -> None:
    """A killed parent says no goodbye, and a worker would wait for its next task forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


Result = TypeVar("Result")


def _run(task: Callable[[], Result]) -> Result | UserError:
    """Works in a worker. A UserError is returned, for the parent to raise as its own."""
    try:
        return task()
    except UserError as error:
        return error


def _in_order(executor: Executor, tasks: Sequence[Callable[[], Result]]) -> Iterator[Result]:
    """Results of tasks in their order, only a few of them ahead of the reader. A single task runs here."""
    if len(tasks) == 1 or _cores() == 1:
        yield from (task() for task in tasks)
        return
    ahead: deque[Future[Result | UserError]] = deque()
    waiting = iter(tasks)
    while True:
        ahead.extend(executor.submit(_run, task) for task in islice(waiting, 2 * _cores() - len(ahead)))
        if not ahead:
            return
        result = ahead.popleft().result()
        if isinstance(result, UserError):
            raise result
        yield result
