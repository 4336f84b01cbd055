"""The offline job: the same corpus gives the same dataset, and what is there is finished."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace as change
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bert_jax.config import Config
from data_pipeline import blocks, corpus, records, tokenizer
from data_pipeline import prepare as module
from data_pipeline.config import DataConfig, MaskingConfig, TokenizerConfig
from data_pipeline.corpus import documents
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from tests.helpers.paths import ROOT, SHARED_DATA


@pytest.fixture
def data(config: Config, tmp_path: Path) -> DataConfig:
    """The tiny config, not prepared yet, with the tokenizer that was trained for it."""
    words = TokenizerConfig(vocab_size=700, vocab_file=f"{config.data.dir}/tokenizer/spiece.model")
    return change(config.data, dir=str(tmp_path / "data"), tokenizer=words)


def rows_of(data: DataConfig, split: str) -> list[dict[str, np.ndarray]]:
    return list(tfds.builder_from_directory(data.dir).as_data_source(split))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_the_same_corpus_gives_the_same_dataset(data: DataConfig, tmp_path: Path, kind: str):
    data = change(data, tokenizer=TokenizerConfig(kind=kind, vocab_size=700))
    first = prepare(data)
    second = prepare(change(data, dir=str(tmp_path / "again")))
    assert first == second
    other = prepare(change(data, dir=str(tmp_path / "other"), seed=1))
    assert other.fingerprint != first.fingerprint


def test_tfds_opens_the_directory_and_the_manifest_tells_what_is_in_it(config: Config):
    manifest = Manifest.load(Path(config.data.dir))
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    assert manifest.tokenizer_sha256 == words.sha256
    assert manifest.special_tokens == words.special_tokens
    counts = {}
    for split in ("train", "validation"):
        rows = rows_of(config.data, split)
        assert len(rows) == manifest.rows[split] > 0
        assert sum(len(row["token_ids"]) for row in rows) == manifest.tokens[split]
        assert sum(len(row["nsp_labels"]) for row in rows) == manifest.sequences[split]
        for row in rows:
            assert row["segment_lengths"].sum() == len(row["token_ids"]) <= config.data.sequence_length
            assert len(row["nsp_labels"]) <= config.data.max_sequences_per_row
            starts = np.cumsum(row["segment_lengths"].reshape(-1, 2).sum(1))[:-1]
            assert all(row["token_ids"][start] == words.ids["[CLS]"] for start in [0, *starts])
        counts[split] = Counter(
            int(t) for row in rows for t in row["token_ids"] if t not in words.special_tokens.ids
        )
    total = sum(counts["train"].values()) + words.vocab_size - 5
    nll = sum(-n * math.log((counts["train"][t] + 1) / total) for t, n in counts["validation"].items())
    assert manifest.unigram_loss == pytest.approx(nll / sum(counts["validation"].values()), rel=1e-9)


def test_validation_documents_are_held_out_of_training(data: DataConfig, tmp_path: Path):
    """A word that only held-out documents have is not in the training rows."""
    documents = [f"Common words are here. Number {i}.\nA second line of words." for i in range(200)]
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    data = change(
        data,
        source=f"files:{tmp_path}/a.txt",
        tokenizer=TokenizerConfig(vocab_size=100),
        validation_fraction=0.2,
    )
    manifest = prepare(data)
    assert manifest.documents["train"] + manifest.documents["validation"] == 200
    assert 20 < manifest.documents["validation"] < 60
    words = tokenizer.load(Path(data.dir) / "tokenizer")
    text = {
        split: " ".join(
            words._sentencepiece.decode(row["token_ids"].tolist()) for row in rows_of(data, split)
        )
        for split in ("train", "validation")
    }
    numbers = {
        split: {
            int(word.rstrip(".")) for word in line.replace(".", ". ").split() if word.rstrip(".").isdigit()
        }
        for split, line in text.items()
    }
    assert not numbers["train"] & numbers["validation"]


def lines_of(data: DataConfig, split: str) -> list[str]:
    """Of the documents of a split, in the order of their keys, each once."""
    found = sorted(d for d in documents(data.sources[0]) if blocks.split_of(data, d) == split)
    return [line for document in blocks.unique(found) for line in document.lines]


def test_the_tokenizer_sees_no_held_out_document(data: DataConfig, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    train = tokenizer.train

    def spy(config, lines):
        seen.extend(lines())
        return train(config, lines)

    monkeypatch.setattr(tokenizer, "train", spy)
    prepare(change(data, tokenizer=TokenizerConfig(vocab_size=700)))
    assert seen == lines_of(data, "train")
    assert set(lines_of(data, "validation")) - set(seen)


def test_the_tokenizer_of_a_large_corpus_sees_a_sample(data: DataConfig, monkeypatch: pytest.MonkeyPatch):
    """Of documents with the smallest keys, so of all files alike, in whatever order they are read."""
    seen: list[list[str]] = []
    train = tokenizer.train

    def spy(config, lines):
        seen.append(list(lines()))
        return train(config, lines)

    monkeypatch.setattr(tokenizer, "train", spy)
    total = sum(map(len, lines_of(data, "train")))
    monkeypatch.setattr(tokenizer, "TRAINING_CHARACTERS", total // 2)
    prepare(change(data, tokenizer=TokenizerConfig(vocab_size=500)))
    (sample,) = seen
    assert sample == lines_of(data, "train")[: len(sample)]
    assert 0.3 < sum(map(len, sample)) / total < 0.7


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_CHARACTERS", 20_000)


@pytest.mark.usefixtures("many_blocks")
def test_a_large_dataset_is_in_several_files_with_the_same_rows(
    data: DataConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_cores", lambda: 1)  # the smaller blocks are known in this process only
    one = prepare(change(data, dir=f"{data.dir}-one"))
    monkeypatch.setattr(module, "SHARD_CHARACTERS", 60_000)
    several = prepare(data)
    files = sorted(path.name for path in Path(data.dir).glob("*-train.array_record*"))
    assert len(files) > 3
    assert files[0].endswith(f"-00000-of-{len(files):05d}")
    assert several == one
    for a, b in zip(
        rows_of(change(data, dir=f"{data.dir}-one"), "train"), rows_of(data, "train"), strict=True
    ):
        assert (a["token_ids"] == b["token_ids"]).all()


def test_several_processes_make_what_one_does(data: DataConfig, tmp_path: Path, monkeypatch):
    """Four files, two sources, two splits: every stage has work for the workers."""
    lines = lines_of(data, "train")
    for number in range(4):
        text = "\n\n".join("\n".join(lines[i : i + 5]) for i in range(number, len(lines), 20))
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    data = change(data, source=(f"files:{tmp_path}/[012].txt", f"files:{tmp_path}/3.txt"))
    monkeypatch.setattr(module, "_cores", lambda: 2)
    two = prepare(change(data, dir=f"{data.dir}-two"))
    monkeypatch.setattr(module, "_cores", lambda: 1)
    assert prepare(data) == two
    names = [path.name for path in sorted(Path(data.dir).iterdir()) if path.is_file()]
    assert len(names) == 6
    for name in set(names) - {"dataset_info.json"}:
        assert (Path(data.dir) / name).read_bytes() == (Path(f"{data.dir}-two") / name).read_bytes(), name


def test_the_order_of_the_files_does_not_matter(data: DataConfig, tmp_path: Path, config: Config):
    corpus = Path(config.data.sources[0].removeprefix("files:")).read_text().split("\n\n")
    half = len(corpus) // 2
    (tmp_path / "a.txt").write_text("\n\n".join(corpus[half:]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n\n".join(reversed(corpus[:half])), encoding="utf-8")
    manifest = prepare(change(data, source=f"files:{tmp_path}/*.txt"))
    assert manifest.fingerprint == Manifest.load(Path(config.data.dir)).fingerprint


def test_documents_with_the_same_text_are_there_once(data: DataConfig, tmp_path: Path, config: Config):
    text = Path(config.data.sources[0].removeprefix("files:")).read_text()
    copies = text.split("\n\n")[3:10]
    (tmp_path / "a.txt").write_text("\n\n".join([*copies, text, *copies]), encoding="utf-8")
    manifest = prepare(change(data, source=f"files:{tmp_path}/a.txt"))
    original = Manifest.load(Path(config.data.dir))
    assert sum(manifest.duplicates.values()) == 14 + sum(original.duplicates.values())
    assert manifest.fingerprint == original.fingerprint
    assert manifest.documents == original.documents


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_documents_without_text_are_left_out_and_counted(
    data: DataConfig, tmp_path: Path, config: Config, ending: str
):
    """Nothing else changes: not even which field the text is in is a part of the dataset."""
    text = Path(config.data.sources[0].removeprefix("files:")).read_text()
    texts = [None, *text.split("\n\n"), "", None]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        parquet.write_table(pyarrow.table({"body": texts}), path)
    else:
        path.write_text("\n".join(json.dumps({"body": text}) for text in texts))
    data = change(data, source=f"files:{path}", text_field="body")
    manifest = prepare(data)
    assert manifest.empty == 3
    original = Manifest.load(Path(config.data.dir))
    assert (manifest.fingerprint, original.empty) == (original.fingerprint, 0)
    manifest.check(change(data, text_field="text"))


def test_a_corpus_without_any_text_is_refused(data: DataConfig, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": ""}')
    with pytest.raises(ValueError, match=r"a\.jsonl' has no text in it"):
        prepare(change(data, source=f"files:{tmp_path}/a.jsonl"))


def test_a_block_is_a_range_of_keys_and_blocks_cover_them_all():
    characters = {(0, "train"): 10 * blocks.BLOCK_CHARACTERS, (0, "validation"): 5, (1, "train"): 7}
    planned = blocks.plan(characters)
    assert [(b.split, b.source, b.number) for b in planned] == sorted(
        (b.split, b.source, b.number) for b in planned
    )
    first = planned[:10]
    assert first[0].keys.start == 0
    assert first[-1].keys.stop == 2**63
    assert all(a.keys.stop == b.keys.start for a, b in pairwise(first))
    for key in (0, 1, 2**62, 2**63 - 1, *(block.keys.start for block in first)):
        block = blocks.block_of((0, "train"), 10, corpus.Document(key, []))
        assert key in block.keys


@given(st.lists(st.lists(st.sampled_from(["some words", "a longer line of words", "three"]), min_size=1)))
@settings(max_examples=25, deadline=None)
def test_the_rows_of_a_block_do_not_depend_on_the_order_of_its_documents(config: Config, texts):
    words = tokenizer.load(Path(config.data.dir) / "tokenizer")
    found = [corpus._document(lines) for lines in texts]
    block = blocks.Block(0, "train", 0, 1)
    one, counted = blocks.examples_of_block(config.data, block, found, words)
    other, again = blocks.examples_of_block(config.data, block, [*reversed(found), *found[:3]], words)
    assert records.digest(one) == records.digest(other)
    assert counted.documents == again.documents == len({tuple(lines) for lines in texts})
    assert again.duplicates == counted.duplicates + len(found[:3])


def test_a_record_is_what_tensorflow_reads(config: Config):
    import tensorflow as tf

    words = np.arange(300, dtype=np.uint16)
    example = {"token_ids": words, "segment_lengths": words[:2], "nsp_labels": np.zeros(0, np.uint8)}
    parsed = tf.train.Example.FromString(records.serialize(example)).features.feature
    assert {name: parsed[name].bytes_list.value[0] for name in parsed} == {
        name: array.tobytes() for name, array in example.items()
    }


@pytest.mark.parametrize(
    ("input_format", "packed"), [("full_sentences", 1), ("documents", 1), ("documents", 4)]
)
def test_without_pairs_every_token_is_there_once(data: DataConfig, input_format: str, packed: int):
    data = change(data, input_format=input_format, max_sequences_per_row=packed)
    manifest = prepare(data)
    words = tokenizer.load(Path(data.dir) / "tokenizer")
    assert manifest.majority_nsp_accuracy is None
    expected = [t for ids in words.encode_batch(lines_of(data, "train")) for t in ids]
    special = {words.ids["[CLS]"], words.ids["[SEP]"]}
    found = [int(t) for row in rows_of(data, "train") for t in row["token_ids"] if t not in special]
    assert (found if packed == 1 else sorted(found)) == (expected if packed == 1 else sorted(expected))


def test_a_validation_fraction_of_0_makes_no_validation_split(data: DataConfig):
    manifest = prepare(change(data, validation_fraction=0.0))
    assert set(manifest.rows) == {"train"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One document only.\nIn two lines.", "has no document .*a blank line ends a document"),
        ("\n \n\n", "has no text in it"),
    ],
)
def test_a_corpus_that_cannot_be_split_says_what_to_do(
    data: DataConfig, tmp_path: Path, text: str, message: str
):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(change(data, source=f"files:{tmp_path}/a.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_what_exists_is_not_overwritten(config: Config):
    with pytest.raises(FileExistsError, match="exists already; delete it"):
        prepare(config.data)


SCRIPTS = [
    "東京は日本の首都です。人口は約千四百万人です。",
    "北京是中国的首都，历史悠久。",
    "서울은 대한민국의 수도이다.",
    "القاهرة هي عاصمة مصر وأكبر مدنها.",
    "ירושלים היא עיר הבירה של ישראל.",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "Ελλάδα: η Αθήνα είναι η πρωτεύουσα.",
    "Zażółć gęślą jaźń, naïve café, Ångström.",
]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_every_script_goes_through(data: DataConfig, tmp_path: Path, kind: str):
    """From a file with a byte order mark and a NUL to a batch with whole words masked."""
    lines = [f"{line} {number}" for number in range(40) for line in SCRIPTS]
    text = "\n\n".join("\n".join(lines[i : i + 8]) for i in range(0, len(lines), 8))
    (tmp_path / "a.txt").write_text(text.replace(" 7", "\x00 7"), encoding="utf-8-sig")
    data = change(
        data,
        source=f"files:{tmp_path}/a.txt",
        tokenizer=TokenizerConfig(kind=kind, vocab_size=400, lowercase=False),
        masking=MaskingConfig(strategy="whole_word", max_predictions=12),
    )
    prepare(data)
    for part in json.loads((Path(data.dir) / module.STATISTICS).read_text()):
        assert part["counts"]["unknown"] == 0
        assert part["counts"]["duplicates"] == 0
    words = tokenizer.load(Path(data.dir) / "tokenizer")
    stored = "".join(words.pieces[t] for row in rows_of(data, "train") for t in row["token_ids"])
    for part in ("東", "京", "北", "القاهرة", "ירושלים", "เมือง", "Αθήνα"):
        assert part in stored.replace("##", "").replace("▁", "")
    with Loader(data, split="train", batch_size=16) as loader:
        assert (next(loader)["mlm_positions"] > 0).any(axis=1).all()


def test_a_complaint_of_a_worker_is_raised_here(data: DataConfig, tmp_path: Path, monkeypatch):
    for name, content in (("a", b"fine"), ("b", b"not \xff fine")):
        (tmp_path / f"{name}.txt").write_bytes(content)
    monkeypatch.setattr(module, "_cores", lambda: 2)
    with pytest.raises(ValueError, match=r"b\.txt line 1: not valid UTF-8") as caught:
        prepare(change(data, source=f"files:{tmp_path}/*.txt"))
    assert Path(caught.traceback[-1].path).name == "prepare.py"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_ctrl_c_does_not_wait_for_the_workers(config: Config, data: DataConfig, tmp_path: Path):
    """Two files of which each takes a minute."""
    for name in "ab":
        with (tmp_path / f"{name}.txt").open("w") as file:
            for number in range(300):
                file.write(f"{number}\n\n" + "word " * 200_000 + "\n\n")
    process = start(config, change(data, source=f"files:{tmp_path}/*.txt"), tmp_path)
    while not list(tmp_path.glob("data.unfinished/source-0/*.sqlite")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stopped = time.perf_counter()
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert time.perf_counter() - stopped < 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "config.json"]


def test_a_bucket_is_for_beam(data: DataConfig):
    with pytest.raises(ValueError, match=r"gs://bucket/data is in a bucket"):
        prepare(change(data, dir="gs://bucket/data"))


def test_a_fault_in_the_middle_leaves_nothing(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: object, **names: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(tokenizer.Tokenizer, "save", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        prepare(data)
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
from bert_jax.workdir.run_files import config_from_json
from data_pipeline import prepare
if __name__ == "__main__":
    prepare._cores = lambda: 2
    prepare.prepare(config_from_json(open(sys.argv[1]).read()).data)
"""


def start(config: Config, data: DataConfig, folder: Path, program: str = PROGRAM) -> subprocess.Popen:
    from bert_jax.config.as_json import to_json

    (folder / "config.json").write_text(to_json(change(config, data=data)))
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "config.json")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_it_does_not_look_finished_and_starts_again(
    config: Config, data: DataConfig, tmp_path: Path
):
    process = start(config, data, tmp_path)
    unfinished = Path(f"{data.dir}.unfinished")
    while not list(unfinished.glob("dataset/*train.array_record*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    workers = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not Path(data.dir).exists()
    assert unfinished.exists()
    assert prepare(data) == Manifest.load(Path(data.dir))
    assert not unfinished.exists()
    assert workers
    deadline = time.time() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.time() < deadline, "a worker outlives its parent"
        time.sleep(0.1)


def test_no_space_left_leaves_nothing(config: Config, data: DataConfig, tmp_path: Path):
    """A limit on the size of files stands for a full disk: writing fails in the same place."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))" + PROGRAM
    process = start(config, data, tmp_path, limited)
    error = process.communicate()[1]
    assert process.returncode != 0
    assert "as much free disk as it has bytes" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_a_dataset_that_cannot_be_written_is_not_a_fault_of_the_program(
    data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Full:
        def __init__(self, *_: str):
            pass

        def write(self, record: bytes) -> None:
            raise RuntimeError("write() failed: No space left on device; writing /data/train")

        def close(self) -> None:
            pass

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", Full)
    with pytest.raises(OSError, match=r"cannot be written to .*: No space left on device"):
        prepare(data)
    assert list(tmp_path.iterdir()) == []


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its children, shared pages counted in each."""
    pids = f"{pid}"
    done = subprocess.run(["ps", "-o", "rss=", "-p", pids, "--ppid", pids], capture_output=True, text=True)
    return 1024 * sum(map(int, done.stdout.split()))


@pytest.mark.slow
def test_two_gigabytes_are_prepared_in_little_memory(config: Config, tmp_path: Path):
    """Real text again and again, each time with another first line, so that no document is a duplicate."""
    shared = SHARED_DATA / "corpus"
    source = f"files:{shared}/*.txt.gz" if shared.is_dir() else "builtin:python-docs"
    text = [document.lines for document in documents(source)]
    size = copy = 0
    while size < 2_000_000_000:
        with (tmp_path / f"{copy % 4}.txt").open("a", encoding="utf-8") as file:
            for lines in text:
                size += file.write("\n".join([f"This is copy {copy} of a document.", *lines, "", ""]))
        copy += 1
    data = DataConfig(
        source=f"files:{tmp_path}/*.txt",
        dir=str(tmp_path / "data"),
        input_format="documents",
        sequence_length=512,
        max_sequences_per_row=8,
        validation_fraction=0.01,
        tokenizer=TokenizerConfig(vocab_size=30522),
        masking=MaskingConfig(max_predictions=77),
    )
    started = time.perf_counter()
    model = change(config.model, max_position_embeddings=512, vocab_size=30522)
    process = start(change(config, model=model), data, tmp_path)
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_memory(process.pid))
        time.sleep(0.1)
    assert process.returncode == 0, process.communicate()[1]
    seconds = time.perf_counter() - started
    manifest = Manifest.load(Path(data.dir))
    print(
        f"{size / 1e9:.2f} GB in {seconds:.0f} s, {size / 1e6 / seconds:.1f} MB/s, peak {peak / 1e9:.2f} GB"
    )
    print(f"{manifest.fill['train']:.2%} full, {manifest.duplicates} duplicates")
    assert peak < 1_500_000_000
    assert manifest.fill["train"] > 0.98
