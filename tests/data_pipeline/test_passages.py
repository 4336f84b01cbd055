"""Neighbouring passages of documents as pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bert_jax.cli.main import run
from data_pipeline.corpus import Document
from data_pipeline.errors import UserError
from data_pipeline.passages import neighbours, passages, write_pairs


def document(*lines: str) -> Document:
    return Document(0, list(lines))


def test_passages_end_with_lines():
    found = passages(document("a b c", "d", "e f", "g h i", "j"), words=4)
    assert list(found) == ["a b c d", "e f g h i"], "the rest is too short"
    assert list(passages(document("a b c", "d e"), words=4)) == ["a b c d e"]
    assert list(passages(document("a b c d", "e f"), words=4)) == ["a b c d", "e f"]


def test_a_long_line_is_cut():
    assert list(passages(document(" ".join("abcdefghijk")), words=3)) == ["a b c d e f", "g h i j k"]


def test_each_passage_is_in_one_pair():
    assert list(neighbours(document(*"abcde"), words=1)) == [("a", "b"), ("c", "d")]


def pairs(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_no_document_is_in_both_files(tmp_path: Path):
    texts = [f"one {i}\ntwo {i}\nthree {i}\nfour {i}\n" for i in range(100)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "b.txt").write_text(texts[0])  # again
    out = tmp_path / "out"
    command = ["make-pairs", f"files:{tmp_path}/*.txt", "--out", str(out), "--words", "2"]
    assert run([*command, "--validation-fraction", "0.2"]) == 0
    train, held_out = (pairs(out / f"{split}.jsonl") for split in ("train", "validation"))
    assert len(train) + len(held_out) == 200
    assert 10 < len(held_out) < 80
    assert {"anchor": "one 0", "positive": "two 0"} in train + held_out
    number = [{row["anchor"].split()[1] for row in rows} for rows in (train, held_out)]
    assert not number[0] & number[1]
    with pytest.raises(FileExistsError, match="exists already; delete it"):
        run(command)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": 0}, "--words is 0"),
        ({"validation_fraction": 1.0}, r"--validation-fraction is 1\.0"),
        ({"words": 50}, "has no two passages of 50 words .* fewer --words, a smaller --validation-f"),
    ],
)
def test_what_makes_no_pairs_is_refused(settings: dict, message: str, tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\n")
    asked = {"words": 1, "validation_fraction": 0.1, "seed": 0, "text_field": "text"} | settings
    with pytest.raises(UserError, match=message):
        write_pairs(f"files:{tmp_path}/a.txt", tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.unfinished").exists()
