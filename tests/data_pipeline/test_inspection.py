"""The data doctor: its figures are those of the dataset, its page stands alone, damage is named."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from bert_jax.analysis.inspection_page import inspection_page
from bert_jax.config import Config
from data_pipeline.inspection import (
    Inspection,
    comparison,
    document_lengths,
    facts,
    inspect,
    report,
    sequence_lengths,
)
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import prepare
from tests.helpers.examples import MINILM


@pytest.fixture(scope="module")
def inspection(config: Config) -> Inspection:
    return inspect(Path(config.data.dir))


def test_the_figures_are_those_of_the_stored_rows(inspection: Inspection, config: Config):
    rows = list(tfds.builder_from_directory(config.data.dir).as_data_source("train"))
    tokens = Counter(int(token) for row in rows for token in row["token_ids"])
    for special in inspection.words.special_tokens.ids:
        tokens.pop(special, None)
    expected = [(inspection.words.pieces[t], n / tokens.total()) for t, n in tokens.most_common(5)]
    found = inspection.frequent_pieces(5)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    assert [share for _, share in found] == pytest.approx([share for _, share in expected])
    sizes = [int(a) for row in rows for a in row["segment_lengths"].reshape(-1, 2).sum(axis=1)]
    assert sum(count for _, count in sequence_lengths(inspection.total("train"))) == len(sizes)
    bins = dict(sequence_lengths(inspection.total("train")))
    assert bins["57-64"] == sum(57 <= size <= 64 for size in sizes)
    documents = sum(count for _, count in document_lengths(inspection.total("train")))
    assert documents == inspection.manifest.documents["train"]


def test_the_table_has_a_column_for_each_split(inspection: Inspection):
    head, *lines = facts(inspection)
    assert head == ["", "train", "validation"]
    by_name = {name: cells for name, *cells in lines}
    manifest = inspection.manifest
    assert by_name["rows of 64"] == [f"{manifest.rows[split]:,}" for split in head[1:]]
    assert by_name["full"] == [f"{manifest.fill[split]:.2%}" for split in head[1:]]
    assert all(cell for cells in by_name.values() for cell in cells)
    assert 0 < float(by_name["truncated tokens"][0].rstrip("%")) < 30


def test_the_report_is_for_a_terminal(inspection: Inspection):
    lines = "\n".join(report(inspection)).split("\n")
    assert f"loss {inspection.manifest.unigram_loss:.3f} nats" in "\n".join(lines)
    assert max(map(len, lines[:-3])) < 120
    assert sum("█" in line for line in lines) > 5
    assert [line for line in lines[-3:] if not re.match(r"  \[CLS\] ?.*\[SEP\]$", line)] == []


def test_masked_rows_show_what_was_there(inspection: Inspection):
    fates = Counter(token.replacement for row in inspection.rows for token in row)
    assert fates["masked"] > fates["random"] + fates["kept"] > 0
    for row in inspection.rows:
        for token in row:
            assert (token.shown == "[MASK]") == (token.replacement == "masked")
            assert (token.shown == token.text.strip()) == (token.replacement in ("", "kept"))
            assert token.text.strip() != "[MASK]"


class Links(html.parser.HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        links = [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.found += [link for link in links if not link.startswith("#")]
        assert tag not in ("script", "iframe", "link")


def test_the_page_needs_nothing_beside_it(inspection: Inspection):
    written = inspection_page(inspection)
    links = Links()
    links.feed(written)
    assert links.found == []
    assert written.count("<svg") == 4
    assert f"{inspection.manifest.rows['train']:,}" in written
    assert inspection_page(inspection) == written


def test_text_of_the_corpus_is_not_html(inspection: Inspection):
    text = " <script>alert(1)</script>"
    token = dataclasses.replace(inspection.rows[0][1], text=text, replacement="random")
    written = inspection_page(
        dataclasses.replace(inspection, rows=[[dataclasses.replace(token, shown="<b>")]])
    )
    assert "<script" not in written
    assert "&lt;script&gt;" in written
    assert "<b>" not in written.partition("As the model sees them")[2]


def test_sources_have_columns_of_their_own(config: Config, tmp_path: Path):
    names = []
    text = Path(config.data.sources[0].removeprefix("files:")).read_text().split("\n\n")
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(text[number::2]), encoding="utf-8")
        names.append(f"files:{tmp_path}/{number}.txt")
    words = dataclasses.replace(config.data.tokenizer, vocab_file=f"{config.data.dir}/tokenizer/spiece.model")
    data = dataclasses.replace(
        config.data, source=tuple(names), dir=str(tmp_path / "data"), tokenizer=words, validation_fraction=0.0
    )
    prepare(data)
    found = inspect(Path(data.dir))
    assert facts(found)[0] == ["", "train 1", "train 2"]
    assert found.total("train").documents == found.manifest.documents["train"]
    assert f"source 2: {names[1]}" in list(report(found))


def test_what_a_text_costs_under_two_tokenizers(inspection: Inspection, config: Config):
    """Held-out documents, read again from the source: under its own tokenizer the pieces of the table."""
    found = inspect(Path(config.data.dir), against=MINILM)
    ours, theirs = found.costs
    held_out = found.total("validation")
    assert (ours.pieces, ours.words, ours.unknown) == (held_out.pieces, held_out.words, held_out.unknown)
    assert (theirs.name, theirs.words) == (str(MINILM), ours.words)
    assert 1 < theirs.pieces / theirs.words < ours.pieces / ours.words
    head, *lines = comparison(found.costs)
    assert head == ["", "pieces", "a word", "unknown", "more"]
    assert lines[0][-1] == "+0.0%"
    assert lines[1][-1] == f"{theirs.pieces / ours.pieces - 1:+.1%}"
    assert "what a text costs under two tokenizers" in "\n".join(report(found))
    assert "What a text costs" in inspection_page(found)
    assert "What a text costs" not in inspection_page(inspection)


def test_tokenizers_are_compared_on_another_text_where_the_first_is_gone(config: Config, tmp_path: Path):
    directory = tmp_path / "data"
    shutil.copytree(config.data.dir, directory)
    file = directory / "manifest.json"
    manifest = json.loads(file.read_text()) | {"sources": ["files:/nowhere/*.txt"]}
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"cannot be read \(.* matches no file\): give --text files:GLOB"):
        inspect(directory, against=MINILM)
    (tmp_path / "text.txt").write_text("unaffable 東京 \u2603\n")
    found = inspect(directory, against=directory, text=f"files:{tmp_path}/text.txt")
    assert found.costs[0][1:] == found.costs[1][1:], "a dataset has a tokenizer too"
    assert (found.costs[0].words, found.costs[0].unknown) == (3, 2)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        inspect(directory, against=tmp_path)


def test_without_matplotlib_the_page_says_what_to_install(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'bert-jax\[plots\]'"):
        inspection_page(inspection)


def test_a_damaged_dataset_is_named(config: Config, tmp_path: Path):
    directory = tmp_path / "data"
    shutil.copytree(config.data.dir, directory)
    settings = directory / "tokenizer" / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"lowercase": true', '"lowercase": false'))
    with pytest.raises(ValueError, match="is not the tokenizer"):
        inspect(directory)
    shutil.rmtree(directory)
    shutil.copytree(config.data.dir, directory)
    file = next(directory.glob("*-train.array_record*"))
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes(b ^ 0xFF for b in content[middle:]))
    with pytest.raises(ValueError, match="prepare the dataset again"):
        inspect(directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["duplicates"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="written by another version"):
        inspect(directory)
    with pytest.raises(FileNotFoundError, match="holds no prepared dataset"):
        inspect(tmp_path)


def test_the_manifest_tells_how_to_read_its_dataset(config: Config):
    manifest = Manifest.load(Path(config.data.dir))
    found = manifest.config(Path(config.data.dir))
    manifest.check(found)
    assert found.tokenizer == config.data.tokenizer
    assert found.sequence_length == 64
