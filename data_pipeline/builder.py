"""Stored rows as a TFDS dataset: files of records, and what TFDS wants beside them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.records import LABELS, LENGTHS, TOKENS

NAME = "pretraining_rows"


class Shard(NamedTuple):
    """A file of a split."""

    split: str
    number: int
    total: int

    @property
    def file_name(self) -> str:
        """The name of its file, as TFDS has it."""
        return f"{NAME}-{self.split}.array_record-{self.number:05d}-of-{self.total:05d}"


def write_files(folder: Path, parts: Iterable[tuple[Shard, Sequence[bytes]]]) -> dict[Shard, int]:
    """Writes records, shard after shard; returns the rows in each.

    Raises:
      OSError: a file cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    counts = {}
    try:
        for shard, group in groupby(parts, key=lambda part: part[0]):
            counts[shard] = 0
            # Groups of one: each row is compressed by itself, and reading it reads no other.
            with contextlib.closing(ArrayRecordWriter(str(folder / shard.file_name), "group_size:1")) as file:
                for _, records in group:
                    for record in records:
                        file.write(record)
                    counts[shard] += len(records)
    except RuntimeError as error:
        # ArrayRecord's C++ writer says: "write() failed: No space left on device; writing /data/train..."
        failed = re.search(r"write\(\) failed: ([^;]+)", str(error))
        reason = failed[1] if failed else str(error).partition("\n")[0]
        raise OSError(f"the dataset cannot be written to {folder}: {reason}") from error
    return counts


def write_metadata(folder: Path, counts: Mapping[Shard, int], *, dtype: type[np.generic]) -> None:
    """Writes what `tfds.builder_from_directory` reads, for the files that `write_files` wrote."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[counts[shard] for shard in shards],
            num_bytes=sum((folder / shard.file_name).stat().st_size for shard in shards),
            filename_template=template.replace(split=split),
        )
        for split, group in groupby(counts, key=lambda shard: shard.split)
        for shards in [list(group)]
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(dtype),
        split_infos=splits,
        filename_template=template,
        check_data=False,
        description=DESCRIPTION,
        disable_shuffling=True,  # the loader permutes
    )


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """TFDS announces what it does with print, log lines and progress bars."""
    import tensorflow_datasets as tfds
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


DESCRIPTION = "Rows of token ids for pretraining, unmasked."


def features(dtype: type[np.generic]) -> Any:
    """TFDS features of a row: three arrays of any length, as raw bytes."""
    import tensorflow_datasets as tfds

    def raw(dtype: type[np.generic]) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding=tfds.features.Encoding.BYTES)

    return tfds.features.FeaturesDict({TOKENS: raw(dtype), LENGTHS: raw(np.uint16), LABELS: raw(np.uint8)})
