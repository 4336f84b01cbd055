"""Whatever is in a file that somebody brings: one UserError, in a line, or what is right; no hang."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bert_jax.config import (
    BertConfig,
    ClassificationConfig,
    QuestionAnsweringConfig,
    RegressionConfig,
    TaskConfig,
    TokenClassificationConfig,
)
from bert_jax.interop import huggingface
from bert_jax.objectives import mlm
from bert_jax.tasks import task_of
from bert_jax.tasks.records import Empty
from bert_jax.training.network import Network, parameters
from data_pipeline import tokenizer
from data_pipeline.compression import zstd_module
from data_pipeline.config import TokenizerConfig
from data_pipeline.corpus import documents
from data_pipeline.errors import UserError
from tests.helpers.examples import squad

pytestmark = pytest.mark.slow

EXAMPLES = 200
"""For each kind of file: a minute in all."""
LONGEST = datetime.timedelta(seconds=10)
"""For one file of a few bytes: longer is a hang."""

# Files as they should be


def parquet_file(*values: str | None) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": pyarrow.array(values, pyarrow.string())}), file)
    return file.getvalue()


TEXT = "The first line.\r\nÅngström 東京 😀\n\n \nAnother one.\r"
RECORDS = "\n".join(json.dumps({"text": text, "id": 1}) for text in (TEXT, None, "", "a\ud83d"))
CLASSES = [{"sentence": "a fine film", "label": 1}, {"sentence": "no film", "label": "bad"}]
WORDS = [{"tokens": ["Paris", "is"], "ner": ["B-LOC", "O"]}, {"tokens": ["So"], "ner": ["O"]}]
CONLL = "-DOCSTART- O\n\n# id = 1\nParis\tB-LOC\nis O\n\n# So O\n"
CONLL_U = "# text = au\n1-2\tau" + "\t_" * 8 + "\n1\tà" + "\tA" * 8 + "\n2\tle" + "\tB" * 8 + "\n"
ANSWERS = {"text": ["Paris"], "answer_start": ["0"]}
QUESTION = {"id": "q1", "question": "Where?", "context": "Paris 😀 is Paris.", "answers": ANSWERS}
SQUAD = squad({"id": 1, "question": "Where?", "answers": [{"text": "Paris", "answer_start": 0}]})
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s", "a"]
VOCABULARY = "\n".join(PIECES).encode()


def lines_of(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def tokenizer_files(kind: str) -> dict[str, bytes]:
    config = TokenizerConfig(kind=kind, vocab_size=300)  # type: ignore[arg-type]
    return tokenizer.train(config, lambda: ["the cat sat on a mat", "is the mat flat"] * 5).files


def model_files() -> dict[str, bytes]:
    """The smallest BERT."""
    config = BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    network = Network(config, mlm, mlm.Config())
    params = jax.tree.map(lambda parameter: np.zeros(parameter.shape, np.float32), parameters(network))
    return {
        "config.json": json.dumps(huggingface.to_config(network)).encode(),
        "model.safetensors": safetensors.numpy.save(huggingface.to_tensors(network, params)),
    }


# Files as they are found


TOKENS = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\t",
    b",",
    b'"',
    b"#",
    b" ",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x82",
]
TOKENS += [b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e999", b"-1", b"1" * 5000, b"\\ud83d", b"[" * 5000]

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([0, -1, 1 << 31, 1 << 40, 1 << 70, 0.5, 1e300, "", " ", "0", "O", "[MASK]", "Paris"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def spoiled_bytes(draw: st.DrawFn, seed: bytes, within: int) -> bytes:
    """Some bytes of the first `within` are others, or not there, or more."""
    raw = bytearray(seed)
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, min(within, len(raw))))
        stop = start + draw(st.integers(0, 9) | st.just(len(raw)))
        raw[start:stop] = draw(st.binary(max_size=4) | st.sampled_from(TOKENS))
    return bytes(raw)


def places_of(value: Any) -> list[tuple[Any, Any]]:
    """Each value that is in another one: that, and the key or index."""
    keys = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    return [place for key in keys for place in [(value, key), *places_of(value[key])]]


@st.composite
def spoiled_json(draw: st.DrawFn, seed: bytes) -> bytes:
    """JSON, in a line or several, with some values that are others, or not there."""
    try:
        records = [json.loads(seed)]
    except json.JSONDecodeError:
        records = list(map(json.loads, seed.splitlines()))
    for _ in range(draw(st.integers(1, 3))):
        if places := places_of(records):
            container, key = draw(st.sampled_from(places))
            if draw(st.integers(0, 3)):
                container[key] = draw(junk)
            else:
                del container[key]
    return "\n".join(map(json.dumps, records)).encode()


def spoiled(seed: bytes, *, within: int = 1 << 30) -> st.SearchStrategy[bytes]:
    plain = spoiled_bytes(seed, within)
    return plain | spoiled_json(seed) if seed[:1] == b"{" else plain


# Readers


def check_message(message: str) -> None:
    assert message
    assert "\n" not in message


class Case(NamedTuple):
    files: dict[str, bytes]
    """The first one is spoiled."""
    read: Callable[[Path], Any]
    within: int = 1 << 30


def read_corpus(path: Path) -> None:
    for document in documents(f"files:{path}"):
        assert document.lines
        assert all(line and line == line.strip() and "\n" not in line for line in document.lines)
        "\n".join(document.lines).encode()


def read_task(*several: TaskConfig) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        refused = None
        for config in several:
            for labelled in (True, False) if path.suffix != ".txt" else (False,):
                try:
                    examples = task_of(config).read(str(path), config, labelled=labelled)
                except UserError as error:
                    refused = error
                    continue
                assert examples
                assert labelled <= (not any(isinstance(example, Empty) for example in examples))
        if refused:
            raise refused

    return read


def read_vocabulary(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        words = tokenizer.train(TokenizerConfig(kind=kind, vocab_file=str(path)), list)  # type: ignore[arg-type]
        assert words.encode_batch(["the cat [MASK]", ""])
        assert words.huggingface.encode("the cat").ids

    return read


def read_folder(path: Path) -> None:
    tokenizer.load(path.parent).encode_batch(["the cat"])


def read_model(path: Path) -> None:
    network, params = huggingface.load(path.parent)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda p: p.shape, parameters(network))


TEXTS = read_task(ClassificationConfig(), ClassificationConfig(labels=("bad", "good")), RegressionConfig())
TAGS = read_task(
    TokenClassificationConfig(),
    TokenClassificationConfig(labels=("O", "B-LOC")),
    TokenClassificationConfig(text="2", label="UPOS"),
)
QUESTIONS = read_task(QuestionAnsweringConfig(), QuestionAnsweringConfig(find_answers=True))


def cases() -> dict[str, Case]:
    compress = zstd_module().compress
    text, records = TEXT.encode(), RECORDS.encode()
    wordpiece, unigram = tokenizer_files("wordpiece"), tokenizer_files("unigram")
    byte_bpe, model = tokenizer_files("byte_bpe"), model_files()
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()
    found = {
        "text": Case({"a.txt": text}, read_corpus),
        "text.gz": Case({"a.txt.gz": gzip.compress(text)}, read_corpus),
        "text.bz2": Case({"a.txt.bz2": bz2.compress(text)}, read_corpus),
        "text.xz": Case({"a.txt.xz": lzma.compress(text)}, read_corpus),
        "text.zst": Case({"a.txt.zst": compress(text)}, read_corpus),
        "json lines": Case({"a.jsonl": records}, read_corpus),
        "parquet": Case({"a.parquet": parquet_file(TEXT, None, "", "a")}, read_corpus),
        "tsv": Case({"a.tsv": b"sentence\tlabel\na film\t1\n\nno film\t0.0\n"}, TEXTS),
        "csv": Case({"a.csv": b'sentence,label\n"a ""film""\n",1\r\n\r\nno film,true\r\n'}, TEXTS),
        "records": Case({"a.jsonl": lines_of(CLASSES)}, TEXTS),
        "lines": Case({"a.txt": text}, TEXTS),
        "conll": Case({"a.conll": CONLL.encode()}, TAGS),
        "conll-u": Case({"a.conllu": CONLL_U.encode()}, TAGS),
        "tagged records": Case({"a.jsonl": lines_of(WORDS)}, TAGS),
        "squad": Case({"a.json": SQUAD.encode()}, QUESTIONS),
        "questions": Case({"a.jsonl": lines_of([QUESTION, QUESTION | {"id": 2.5}])}, QUESTIONS),
        "vocabulary": Case({"vocab.txt": VOCABULARY}, read_vocabulary("wordpiece")),
        "vocabulary of a folder": Case({"vocab.txt": VOCABULARY}, read_folder),
        "sentencepiece": Case({"spiece.model": unigram["spiece.model"]}, read_vocabulary("unigram")),
        "weights": Case({"model.safetensors": model["model.safetensors"], **model}, read_model, within=400),
        "config.json": Case({"config.json": model["config.json"], **model}, read_model),
        "index": Case(
            {"model.safetensors.index.json": index, "config.json": model["config.json"]}, read_model
        ),
    }
    for name, files in ("wordpiece", wordpiece), ("unigram", unigram), ("byte_bpe", byte_bpe):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            read = read_vocabulary("unigram") if file == "tokenizer.json" else read_folder
            found[f"{file} of {name}"] = Case({file: files[file], **files}, read)
    return found


NAMES = [
    *("text", "text.gz", "text.bz2", "text.xz", "text.zst", "json lines", "parquet"),
    *("tsv", "csv", "records", "lines", "conll", "conll-u", "tagged records", "squad", "questions"),
    *("vocabulary", "vocabulary of a folder", "sentencepiece", "weights", "config.json", "index"),
    *(
        f"{file} of {kind}"
        for kind in ("wordpiece", "unigram", "byte_bpe")
        for file in ("tokenizer.json", "tokenizer_config.json")
    ),
]


@pytest.fixture(scope="module")
def known() -> dict[str, Case]:
    found = cases()
    assert list(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_somebody_brings_is_read_or_refused_in_a_line(
    name: str, known: dict[str, Case], tmp_path: Path
):
    case = known[name]
    for file, content in case.files.items():
        (tmp_path / file).write_bytes(content)
    path = tmp_path / next(iter(case.files))
    seed = next(iter(case.files.values()))

    @settings(
        max_examples=EXAMPLES,
        deadline=LONGEST,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(spoiled(seed, within=case.within))
    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            case.read(path)
        except UserError as error:
            check_message(str(error))
        except FileNotFoundError:
            assert name == "index", "only an index names files"

    read()
