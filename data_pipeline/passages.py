"""Passages of documents, and neighbouring ones as pairs: texts that go together, without anyone's labels.

As in Izacard et al. (2022), arXiv 2112.09118, section 3.1, but that the two do not overlap.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.corpus import Document, documents, in_validation
from data_pipeline.errors import UserError, require


def passages(document: Document, *, words: int) -> Iterator[str]:
    """The text in parts of at least that many words, which end where a line does, or else with twice as many.

    What is left at the end is one too if it has half as many words.
    """
    found: list[str] = []
    for line in document.lines:
        for word in line.split():
            found.append(word)
            if len(found) == 2 * words:
                yield " ".join(found)
                found = []
        if len(found) >= words:
            yield " ".join(found)
            found = []
    if 2 * len(found) >= words:
        yield " ".join(found)


def neighbours(document: Document, *, words: int) -> Iterator[tuple[str, str]]:
    """The first passage and the second, the third and the fourth: each is in one pair."""
    parts = passages(document, words=words)
    return zip(parts, parts, strict=False)


def write_pairs(
    source: str, out: Path, *, words: int, validation_fraction: float, seed: int, text_field: str
) -> dict[str, int]:
    """Writes out/train.jsonl and out/validation.jsonl, which have no document in common: a pair a line.

    Equal documents count once.

    Returns:
      How many pairs each file has.

    Raises:
      FileExistsError, UserError: `out` exists; the source cannot be read, or has no pairs for a file.
    """
    require(words >= 1, f"--words is {words}; it must be at least 1")
    require(
        0 < validation_fraction < 1,
        f"--validation-fraction is {validation_fraction}; it must be between 0 and 1",
    )
    if out.exists():
        raise FileExistsError(f"{out} exists already; delete it, or give another --out")
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts, seen = Counter[str](), set()
    try:
        with contextlib.ExitStack() as stack:
            files = {
                split: stack.enter_context((unfinished / f"{split}.jsonl").open("w", encoding="utf-8"))
                for split in ("train", "validation")
            }
            for document in documents(source, text_field=text_field):
                if document.key in seen:
                    continue
                seen.add(document.key)
                held_out = in_validation(document, fraction=validation_fraction, seed=seed)
                split = "validation" if held_out else "train"
                for one, other in neighbours(document, words=words):
                    line = json.dumps({"anchor": one, "positive": other}, ensure_ascii=False)
                    files[split].write(line + "\n")
                    counts[split] += 1
        for split in files:
            if not counts[split]:
                other = "larger" if split == "validation" else "smaller"
                raise UserError(
                    f"{source} has no two passages of {words} words beside each other for {split}: give more "
                    f"text, fewer --words, a {other} --validation-fraction, or another --seed"
                )
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return dict(counts)
