"""The offline job: corpus in, prepared dataset out. `bert-jax prepare` calls `prepare`.

The corpus is streamed several times: to count it, to train the tokenizer on the training documents, and to
make rows, a block of documents at a time, so that memory does not grow with the corpus. Everything is
written to a folder beside `data.dir` and renamed at the end: what is at `data.dir` is finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import instances, tokenizer
from data_pipeline.config import DataConfig
from data_pipeline.corpus import Document, blocks, documents, in_validation
from data_pipeline.manifest import Manifest
from data_pipeline.packing import Row, pack
from data_pipeline.tokenizer import Tokenizer

log = logging.getLogger(__name__)

SHARD_CHARACTERS = 256_000_000
"""Text in a file of the dataset, about: some 100 MB of records."""


@dataclasses.dataclass
class Corpus:
    """What there is to prepare, by split."""

    documents: dict[str, int]
    characters: dict[str, int]


class RowStatistics:
    """Counts and the fingerprint of the rows of one split, gathered as they are written."""

    def __init__(self, vocab_size: int):
        self.rows = 0
        self.sequences = 0
        self.token_counts = np.zeros(vocab_size, np.int64)
        self.label_counts = np.zeros(3, np.int64)
        self._digest = hashlib.sha256()

    def add(self, row: Row) -> None:
        self.rows += 1
        self.sequences += len(row)
        tokens = np.concatenate([np.asarray(sequence.token_ids, np.int32) for sequence in row])
        np.add.at(self.token_counts, tokens, 1)
        self._digest.update(len(row).to_bytes(4, "little"))
        for sequence in row:
            self.label_counts[sequence.label] += 1
            self._digest.update(np.array([sequence.first_length, sequence.label], np.int32).tobytes())
        self._digest.update(tokens.tobytes())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def prepare(config: DataConfig) -> Manifest:
    """Writes the prepared dataset of `config` to `config.dir` and returns its manifest.

    Raises:
      ValueError: the corpus or the tokenizer cannot be used; says why.
      FileExistsError: `config.dir` exists already.
    """
    directory = Path(config.dir)
    if directory.exists():
        raise FileExistsError(f"data.dir {directory} exists already; delete it, or give another --data.dir")
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir(parents=True)
    try:
        finished = _write(config, unfinished)
        os.rename(finished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Manifest.load(directory)


def _write(config: DataConfig, folder: Path) -> Path:
    corpus = _count(config)
    log.info("tokenizer: %s of %d pieces", config.tokenizer.kind, config.tokenizer.vocab_size)
    words = tokenizer.train(
        config.tokenizer,
        lambda: (line for document in _documents(config, "train") for line in document.lines),
    )
    statistics = {split: RowStatistics(words.vocab_size) for split in corpus.documents}
    total = sum(corpus.characters.values())
    with tqdm(total=total, unit="ch", unit_scale=True, desc="prepare", disable=None) as bar:
        shards = {
            split: _shards(config, split, words, corpus.characters[split], counted, bar)
            for split, counted in statistics.items()
        }
        written = _write_tfds(config, folder, shards, words)
    for split, counted in statistics.items():
        if not counted.rows:
            raise ValueError(f"data.source {config.source!r} gives no {split} row")
    words.save(written / "tokenizer")
    _manifest(config, corpus, words, statistics).save(written)
    return written


def _count(config: DataConfig) -> Corpus:
    """Counts documents and characters; checks that there are documents for each split."""
    corpus = Corpus(documents={"train": 0, "validation": 0}, characters={"train": 0, "validation": 0})
    for document in tqdm(documents(config.source), unit=" documents", desc="read", disable=None):
        split = _split(config, document)
        corpus.documents[split] += 1
        corpus.characters[split] += _size(document)
    total = sum(corpus.documents.values())
    if not corpus.documents["train"]:
        raise ValueError(
            f"data.source {config.source!r} has {total} document(s), none left for training: a blank line "
            "ends a document; or set data.validation_fraction to 0"
        )
    if not config.validation_fraction:
        del corpus.documents["validation"]
    elif not corpus.documents["validation"]:
        raise ValueError(
            f"data.source {config.source!r} has {total} document(s), none of them held out: a blank line "
            "ends a document; or raise data.validation_fraction, or set it to 0"
        )
    return corpus


def _size(document: Document) -> int:
    return sum(map(len, document.lines))


def _documents(config: DataConfig, split: str) -> Iterator[Document]:
    return (document for document in documents(config.source) if _split(config, document) == split)


def _split(config: DataConfig, document: Document) -> str:
    held_out = in_validation(document, fraction=config.validation_fraction, seed=config.seed)
    return "validation" if held_out else "train"


def _shards(
    config: DataConfig, split: str, words: Tokenizer, characters: int, counted: RowStatistics, bar: tqdm
) -> list[Callable[[], Iterator[Row]]]:
    """A function for each shard of a split, to be called in turn: they read on from each other."""
    stream = enumerate(blocks(_documents(config, split)))
    done = 0

    def shard(end: int) -> Iterator[Row]:
        nonlocal done
        while done < end and (numbered := next(stream, None)) is not None:
            number, block = numbered
            for row in rows_of_block(config, block, words, seed=f"{config.seed}/{split}/{number}"):
                counted.add(row)
                yield row
            size = sum(map(_size, block))
            done += size
            bar.update(size)

    count = max(1, round(characters / SHARD_CHARACTERS))
    return [partial(shard, characters * (i + 1) // count) for i in range(count)]


def rows_of_block(config: DataConfig, block: list[Document], words: Tokenizer, *, seed: str) -> list[Row]:
    """Rows of a block of documents: a pure function of its arguments, whoever calls it and when."""
    # Parts of a long document are joined again, so that none is "another document" to the others.
    whole = [[line for part in parts for line in part.lines] for _, parts in groupby(block, lambda d: d.key)]
    ids = iter(words.encode_batch(list(chain(*whole))))
    encoded = [[next(ids) for _ in lines] for lines in whole]
    _, _, cls, sep, _ = words.special_ids
    match config.objective:
        case "next_sentence":
            sequences = instances.next_sentence_pairs(
                encoded,
                sequence_length=config.sequence_length,
                short_sequence_probability=config.short_sequence_probability,
                cls=cls,
                sep=sep,
                rng=random.Random(seed),
            )
        case "full_sentences":
            sequences = instances.full_sentences(
                encoded, sequence_length=config.sequence_length, cls=cls, sep=sep
            )
    return pack(sequences, sequence_length=config.sequence_length, max_sequences=config.max_sequences_per_row)


def _write_tfds(config: DataConfig, folder: Path, splits: dict[str, Any], words: Tokenizer) -> Path:
    """Runs the TFDS builder; returns the folder of the dataset it wrote."""
    import tensorflow_datasets as tfds
    from absl import logging

    from data_pipeline.builder import PretrainingRows, token_dtype

    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    builder = PretrainingRows(
        splits=splits, dtype=token_dtype(words.vocab_size), data_dir=str(folder / "tfds")
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download with print
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
    except RuntimeError as error:
        # ArrayRecord's C++ writer says: "write() failed: No space left on device; writing /data/train..."
        failed = re.search(r"write\(\) failed: ([^;]+)", str(error))
        if failed is None:
            raise
        raise OSError(f"the dataset cannot be written beside {config.dir}: {failed[1]}") from error
    return Path(builder.data_dir)


def _manifest(
    config: DataConfig, corpus: Corpus, words: Tokenizer, statistics: dict[str, RowStatistics]
) -> Manifest:
    train = statistics["train"]
    held_out = statistics.get("validation", train)
    tokens = {split: int(counted.token_counts.sum()) for split, counted in statistics.items()}
    settings = dataclasses.asdict(config)
    del settings["dir"], settings["source"], settings["masking"]
    identity = json.dumps(
        [words.sha256, config.sequence_length, {name: counted.sha256 for name, counted in statistics.items()}]
    )
    return Manifest(
        source=config.source,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        tokenizer_sha256=words.sha256,
        vocab_size=words.vocab_size,
        special_ids=words.special_ids,
        sequence_length=config.sequence_length,
        max_sequences_per_row=config.max_sequences_per_row,
        documents=corpus.documents,
        rows={split: counted.rows for split, counted in statistics.items()},
        sequences={split: counted.sequences for split, counted in statistics.items()},
        tokens=tokens,
        fill={
            split: round(tokens[split] / (counted.rows * config.sequence_length), 4)
            for split, counted in statistics.items()
        },
        unigram_loss=_unigram_loss(train.token_counts, held_out.token_counts, words.special_ids),
        majority_nsp_accuracy=_majority(held_out.label_counts[:2]),
        settings=settings,
    )


def _unigram_loss(train: np.ndarray, held_out: np.ndarray, special_ids: list[int]) -> float:
    """Nats a token of the held-out tokens under the training frequencies, add-one: knowing no context."""
    train = np.delete(train, special_ids).astype(np.float64) + 1
    held_out = np.delete(held_out, special_ids)
    return float(-(held_out * np.log(train / train.sum())).sum() / max(1, held_out.sum()))


def _majority(labels: np.ndarray) -> float | None:
    """Accuracy of always giving the more frequent next-sentence label; None without labels."""
    return float(labels.max() / labels.sum()) if labels.sum() else None
