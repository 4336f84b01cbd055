"""The same dataset from Apache Beam as from one machine: rows, order, tokenizer, counts."""

from __future__ import annotations

import json
from dataclasses import replace as change
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import Config
from data_pipeline.beam import RUNNERS, prepare_on_beam
from data_pipeline.config import DataConfig, TokenizerConfig
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import STATISTICS, prepare

TWO_WORKERS = ("direct_num_workers=2", "direct_running_mode=multi_processing")


@pytest.fixture
def data(config: Config, tmp_path: Path) -> DataConfig:
    """Two sources, one of several files, with a document in both and twice in one, and two without text; a
    tokenizer to train."""
    text = Path(config.data.sources[0].removeprefix("files:")).read_text().split("\n\n")
    for number in range(3):
        documents = [*text[number::4], text[0]]
        (tmp_path / f"{number}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    records = [{"body": document} for document in [None, text[0], "", *text[3::4]]]
    (tmp_path / "last.jsonl").write_text("\n".join(map(json.dumps, records)))
    return change(
        config.data,
        source=(f"files:{tmp_path}/[012].txt", f"files:{tmp_path}/last.jsonl"),
        text_field="body",
        weights=(2, 1),
        dir=str(tmp_path / "data"),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=500),
    )


def batches(data: DataConfig, split: str) -> list[dict[str, np.ndarray]]:
    with Loader(data, split=split, batch_size=8) as loader:
        return list(islice(loader, 40))


@pytest.mark.long
def test_several_workers_make_the_dataset_of_one_machine(data: DataConfig, tmp_path: Path):
    other = change(data, dir=str(tmp_path / "beam"))
    here = prepare(data)
    there = prepare_on_beam(other, runner="direct", options=TWO_WORKERS)
    assert there == here == Manifest.load(Path(other.dir))
    assert sum(here.duplicates.values()) >= 3
    assert here.empty == 2
    files = [Path(one.dir) / STATISTICS for one in (data, other)]
    assert files[0].read_text() == files[1].read_text()
    for split in ("train", "validation"):
        for one, same in zip(batches(data, split), batches(other, split), strict=True):
            assert all((one[name] == same[name]).all() for name in one)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["beam", "data"]


def test_a_fault_leaves_nothing(data: DataConfig, tmp_path: Path):
    (tmp_path / "last.jsonl").write_bytes(b"not \xff fine")
    with pytest.raises(Exception, match=r"last\.jsonl line 1: not valid UTF-8"):
        prepare_on_beam(data, runner="direct")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_runner_lacks_is_said(data: DataConfig):
    with pytest.raises(ValueError, match=r"--runner dataflow.*(pip install 'bert-jax\[dataflow\]'|project)"):
        prepare_on_beam(data, runner="dataflow")
    with pytest.raises(FileExistsError, match="exists already"):
        prepare_on_beam(change(data, dir=str(Path(data.dir).parent)), runner="direct")


def test_every_runner_is_one_that_beam_has():
    from apache_beam.runners.runner import _RUNNER_MAP

    assert {name.lower() for name in RUNNERS.values()} <= set(_RUNNER_MAP)
