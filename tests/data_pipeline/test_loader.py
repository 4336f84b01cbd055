"""Which row is in which batch: a pure function of the step, at any number of processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config import Config
from bert_jax.config.as_json import to_json
from data_pipeline import tokenizer
from data_pipeline.batch import batch_spec, unpack
from data_pipeline.instances import Sequence
from data_pipeline.loader import SLOTS, CorruptDataError, Loader, permute, slots
from data_pipeline.manifest import Manifest
from tests.helpers.configs import replace
from tests.helpers.fixed_rows import write
from tests.helpers.paths import ROOT


def with_masking(config: Config, **fields: object) -> Config:
    return replace(config, data__masking=dataclasses.replace(config.data.masking, **fields))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_a_batch_is_as_the_contract_says(config: Config):
    with Loader(config.data, split="train", batch_size=16) as loader:
        batch = next(loader)
    spec = batch_spec(config.data, rows=16)
    assert {name: (array.shape, array.dtype.type) for name, array in batch.items()} == spec
    assert (batch["segment_lengths"][:, 1] > 0).any(), "some row is packed"


@pytest.mark.parametrize("strategy", ["whole_word", "span"])
def test_words_of_the_datasets_own_tokenizer_are_masked_whole(config: Config, batches, strategy: str):
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    read = batches(5, with_masking(config, strategy=strategy))
    original = np.concatenate([restore(batch) for batch in read])
    chosen = np.zeros(original.shape, bool)
    positions, weights = (
        np.concatenate([b[name] for b in read]) for name in ("mlm_positions", "mlm_weights")
    )
    rows, slots = np.nonzero(weights)
    chosen[rows, positions[rows, slots]] = True
    ordinary = ~np.isin(original, words.special_tokens.ids)
    same_word = (words.word_marks[0][original] & ordinary)[:, 1:] & ordinary[:, :-1]
    assert (chosen[:, 1:] == chosen[:, :-1])[same_word].all()
    assert (chosen[:, 1:] & same_word).sum() > 50
    assert not chosen[~ordinary].any()


def test_a_rate_that_moves_is_a_function_of_the_step(config: Config, batches):
    """Also at a seek, and in a process that reads some rows only."""
    config = with_masking(config, rate=0.1, final_rate=0.3, rate_steps=8, max_predictions=20)
    read = batches(12, config)
    for step, batch in enumerate(read):
        lengths = (batch["segment_ids"] > 0).sum(axis=1)
        rate = 0.1 + 0.2 * min(step / 8, 1)
        assert (np.abs(batch["mlm_weights"].sum(axis=1) - rate * lengths) <= 0.5001).all()
    assert same(batches(1, config, step=5)[0], read[5])
    (part,) = batches(1, config, step=5, rows=(3, 4))
    assert same(part, {name: array[3:5] for name, array in read[5].items()})


READER = """
import sys
from itertools import islice
import numpy as np
from bert_jax.workdir.run_files import config_from_json
from data_pipeline.loader import Loader
config, out, start, stop = open(sys.argv[1]).read(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data = config_from_json(config).data
with Loader(data, split="train", batch_size=16, rows=range(start, stop), step=7) as loader:
    for step, batch in enumerate(islice(loader, 5)):
        np.savez(f"{out}-{step}.npz", **batch)
"""


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_reads_the_same_global_batch(
    config: Config, batches, tmp_path: Path, processes: int
):
    """Real processes, each reading its own rows only; put together they are what one process reads."""
    (tmp_path / "config.json").write_text(to_json(config))
    share = 16 // processes
    command = [sys.executable, "-c", READER, str(tmp_path / "config.json")]
    bounds = [(str(tmp_path / str(i)), str(i * share), str((i + 1) * share)) for i in range(processes)]
    root = ROOT
    started = [subprocess.Popen([*command, *arguments], cwd=root) for arguments in bounds]
    assert [process.wait() for process in started] == [0] * processes
    for step, whole in enumerate(batches(5, step=7)):
        pieces = [np.load(tmp_path / f"{i}-{step}.npz") for i in range(processes)]
        assert all(piece["token_ids"].shape == (share, 64) for piece in pieces)
        together = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0].files}
        assert same(whole, unpack(together))


def test_the_rows_of_a_process_need_not_be_contiguous(batches):
    """As on a TPU slice of several hosts, where the mesh follows the wires."""
    rows = (0, 1, 6, 15)
    (whole,), (part,) = batches(1), batches(1, rows=rows)
    assert same(part, {name: array[list(rows)] for name, array in whole.items()})


def test_the_stream_does_not_depend_on_the_batch_size(config: Config, batches):
    large = batches(2)
    small = batches(8, replace(config, train__global_batch_size=4))
    for name in large[0]:
        assert (np.concatenate([b[name] for b in large]) == np.concatenate([b[name] for b in small])).all(), (
            name
        )


@pytest.mark.long
def test_a_seek_gives_what_reading_on_gives(config: Config, batches):
    """Also across the end of an epoch."""
    rows = Manifest.load(Path(config.data.dir)).rows["train"]
    epoch = rows // 16
    through = batches(epoch + 3)
    for start in (0, 1, epoch - 1, epoch, epoch + 1):
        assert same(batches(1, step=start)[0], through[start])


def test_an_epoch_holds_every_row_once_and_the_next_in_another_order(config: Config, batches):
    rows = Manifest.load(Path(config.data.dir)).rows["train"]
    read = batches(2 * rows // 16 + 1)
    original = [row.tobytes() for batch in read for row in restore(batch)]
    first, second = original[:rows], original[rows : 2 * rows]
    assert sorted(first) == sorted(second)
    assert len(set(first)) > 0.99 * rows  # but for rows that are equal in the corpus
    assert first != second
    moved = np.mean([a != b for a, b in zip(first, second, strict=True)])
    assert moved > 0.95


def restore(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The tokens before masking."""
    batch = unpack(batch)
    tokens = batch["token_ids"].copy()
    for row, (positions, targets, weights) in enumerate(
        zip(batch["mlm_positions"], batch["mlm_targets"], batch["mlm_weights"], strict=True)
    ):
        tokens[row, positions[weights > 0]] = targets[weights > 0]
    return tokens


def test_masks_change_from_epoch_to_epoch(config: Config, batches):
    rows = Manifest.load(Path(config.data.dir)).rows["train"]
    by_row: dict[bytes, set[bytes]] = {}
    for batch in batches(3 * rows // 16):
        for row, columns in zip(restore(batch), batch["mlm_positions"], strict=True):
            by_row.setdefault(row.tobytes(), set()).add(columns.tobytes())
    assert np.mean([len(masks) for masks in by_row.values()]) > 2.5


def test_another_seed_is_another_order_and_other_masks(batches):
    assert not same(batches(1, seed=0)[0], batches(1, seed=1)[0])


def test_validation_reads_every_row_once_with_masks_that_stay(config: Config):
    def read() -> list[dict[str, np.ndarray]]:
        with Loader(config.data, split="validation", batch_size=7) as loader:
            return list(loader)

    rows = Manifest.load(Path(config.data.dir)).rows["validation"]
    first, second = read(), read()
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    used = np.concatenate([batch["segment_lengths"][:, 0].any(axis=1) for batch in first])
    assert used.tolist() == [True] * rows + [False] * (len(used) - rows)
    padding = first[-1]["mlm_positions"][-(len(used) - rows) :]
    assert len(used) > rows
    assert not padding.any()


@pytest.mark.long
@pytest.mark.parametrize(
    "masking",
    [
        {"strategy": "whole_word"},
        {"strategy": "span", "mask_fraction": 0.5},
        {"rate": 0.4, "final_rate": 0.15, "rate_steps": 100, "max_predictions": 30},
    ],
    ids=["whole_word", "span", "rate"],
)
def test_validation_does_not_depend_on_how_training_is_masked(config: Config, masking: dict):
    def read(config: Config) -> list[dict[str, np.ndarray]]:
        with Loader(config.data, split="validation", batch_size=16) as loader:
            return list(loader)

    plain = read(config)
    assert all(same(a, b) for a, b in zip(plain, read(with_masking(config, **masking)), strict=True))
    spec = batch_spec(config.data, rows=16, split="validation")
    assert {name: (array.shape, array.dtype.type) for name, array in plain[0].items()} == spec
    assert spec["mlm_positions"][0] == (16, 10), "15% of 64"
    assert batch_spec(config.data, rows=16)["mlm_positions"][0] == (16, 12)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, {0: [1, 0], 1: [1, 0], 2: [1, 0], 3: [0, 1]}),
        (7, {0: [2, 5, 1, 3, 6, 4, 0], 1: [6, 0, 2, 4, 1, 3, 5]}),
    ],
)
def test_the_order_of_rows_is_pinned(count: int, expected: dict[int, list[int]]):
    """A change of these values breaks the resumption of every run: TensorFlow's op is experimental."""
    import tensorflow as tf

    for epoch, order in expected.items():
        indices = tf.range(count, dtype=tf.int64)
        epochs = tf.fill([count], tf.constant(epoch, tf.int64))
        assert permute(indices, seed=3, epoch=epochs, count=count).numpy().tolist() == order


def test_a_batch_is_pinned(config: Config, tmp_path: Path):
    """The whole path from stored rows to a batch, by its hash, on rows that no corpus can change."""
    import hashlib

    rows = [[Sequence([2, *range(5 + i, 25 + i), 3, *range(30, 40), 3], 22, i % 2)] for i in range(50)]
    data = write(tmp_path / "data", rows)
    with Loader(data, split="train", batch_size=8, seed=1, step=5) as loader:
        batch = unpack(next(loader))
    digest = hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()
    assert digest[:16] == PINNED


PINNED = "bda21255b5c43937"


def numbered(source: int, rows: int) -> list[list[Sequence]]:
    """Rows that tell their source and number in their tokens."""
    body = [[10 + source, 20 + i // 50, 20 + i % 50] * 5 for i in range(rows)]
    return [[Sequence([2, *tokens, 3], 17, 0)] for tokens in body]


def who(batch: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """(source, number) of each row."""
    rows = restore(batch)[:, 1:4]
    return [(int(a) - 10, (int(b) - 20) * 50 + int(c) - 20) for a, b, c in rows]


def test_sources_are_mixed_by_weight_and_each_has_epochs_of_its_own(tmp_path: Path):
    """A cycle of 10,000 rows holds the exact shares; the small source comes round many times."""
    data = write(tmp_path / "data", numbered(0, 70), numbered(1, 900), numbered(2, 5), weights=(1, 3, 0))
    with Loader(data, split="train", batch_size=500, seed=3) as loader:
        cycle = [row for batch in islice(loader, 20) for row in who(batch)]
    by_source = {source: [n for s, n in cycle if s == source] for source in (0, 1, 2)}
    assert [len(numbers) for numbers in by_source.values()] == [2500, 7500, 0]
    counts = np.bincount(by_source[0], minlength=70)
    assert set(counts.tolist()) <= {2500 // 70, 2500 // 70 + 1}
    counts = np.bincount(by_source[1], minlength=900)
    assert set(counts.tolist()) <= {7500 // 900, 7500 // 900 + 1}
    # No source waits: each hundred rows has its share, as chance gives it.
    shares = np.array([source == 0 for source, _ in cycle]).reshape(-1, 100).mean(axis=1)
    assert abs(shares - 0.25).max() < 5 * (0.25 * 0.75 / 100) ** 0.5


@pytest.mark.long
def test_a_mixture_depends_on_the_position_alone(tmp_path: Path):
    data = write(tmp_path / "data", numbered(0, 70), numbered(1, 900), weights=(0.7, 0.3))

    def rows(batch_size: int, count: int, **arguments: int) -> list[tuple[int, int]]:
        with Loader(data, split="train", batch_size=batch_size, **arguments) as loader:
            return [row for batch in islice(loader, count) for row in who(batch)]

    whole = rows(40, 300)
    assert rows(8, 1500) == whole
    assert rows(40, 10, step=252) == whole[252 * 40 : 262 * 40]  # across the end of a cycle
    assert rows(40, 3, seed=1) != whole[:120]


def test_the_mixture_is_pinned(tmp_path: Path):
    data = write(tmp_path / "data", numbered(0, 7), numbered(1, 9), weights=(1, 1))
    with Loader(data, split="train", batch_size=10, seed=3, step=1000) as loader:
        assert who(next(loader)) == PINNED_MIXTURE


PINNED_MIXTURE = [(1, 7), (1, 5), (1, 4), (1, 8), (0, 6), (0, 3), (0, 4), (1, 7), (0, 2), (0, 6)]


@pytest.mark.parametrize("weights", [(1, 2), (1, 1, 1), (0.1, 1e-9, 5), (3, 0)])
def test_every_slot_of_a_cycle_has_a_source(weights: tuple[float, ...]):
    shares = slots(weights)
    assert sum(shares) == SLOTS
    exact = np.array(weights) / sum(weights) * SLOTS
    assert np.abs(shares - exact).max() < 1


def test_weights_are_for_the_sources_that_were_prepared(tmp_path: Path):
    data = write(tmp_path / "data", numbered(0, 7), numbered(1, 9), weights=(1, 1))
    with pytest.raises(ValueError, match=r"prepared from files:0, files:1: name the same sources"):
        Loader(dataclasses.replace(data, source=("files:1", "files:0")), split="train", batch_size=4)


def copy(config: Config, tmp_path: Path) -> Config:
    shutil.copytree(config.data.dir, tmp_path / "data")
    return replace(config, data__dir=str(tmp_path / "data"))


def train_file(config: Config) -> Path:
    return next(Path(config.data.dir).glob("*-train.array_record*"))


def read_an_epoch(config: Config) -> None:
    rows = Manifest.load(Path(config.data.dir)).rows["train"]
    with Loader(config.data, split="train", batch_size=16) as loader:
        for _ in islice(loader, rows // 16 + 1):
            pass


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 64):
        content[place] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["flipped bytes", "truncated", "empty", "missing"],
)
def test_a_damaged_file_is_named(config: Config, tmp_path: Path, damage):
    config = copy(config, tmp_path)
    damage(train_file(config))
    with pytest.raises(CorruptDataError, match=f"{tmp_path}.* prepare the dataset again"):
        read_an_epoch(config)


def test_a_dataset_prepared_otherwise_is_refused_by_field(config: Config):
    with pytest.raises(ValueError, match=r"data\.sequence_length=64, the config says 32"):
        Loader(replace(config, data__sequence_length=32).data, split="train", batch_size=4)


def test_a_missing_dataset_says_what_to_run(config: Config, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="run `bert-jax prepare CONFIG` first"):
        Loader(replace(config, data__dir=str(tmp_path)).data, split="train", batch_size=4)


def test_a_manifest_of_another_version_is_refused(config: Config, tmp_path: Path):
    config = copy(config, tmp_path)
    path = Path(config.data.dir) / "manifest.json"
    fields = json.loads(path.read_text())
    del fields["fingerprint"]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="written by another version"):
        Loader(config.data, split="train", batch_size=4)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Loader(config.data, split="train", batch_size=4)


def test_two_epochs_can_share_a_batch(config: Config, batches):
    """A batch larger than the dataset: positions, not batches, belong to epochs."""
    rows = Manifest.load(Path(config.data.dir)).rows["train"]
    size = rows + 5
    (batch,) = batches(1, replace(config, train__global_batch_size=size))
    original = [row.tobytes() for row in restore(batch)]
    assert len(set(original[:rows])) > 0.99 * rows
    assert set(original[rows:]) <= set(original[:rows])


def test_a_loader_that_is_entered_again_begins_anew(config: Config):
    loader = Loader(config.data, split="validation", batch_size=4)
    passes = []
    for _ in range(2):
        with loader as batches:
            passes.append(list(batches))
    assert len(passes[0]) == len(passes[1]) > 0
    assert all(map(same, *passes))
