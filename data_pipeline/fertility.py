"""Fertility: how many pieces a text costs under a tokenizer, by the word (Rust et al. 2021, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from data_pipeline import tokenizer
from data_pipeline.config import DataConfig
from data_pipeline.corpus import Document, documents, in_validation
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer

CHARACTERS = 1_000_000
"""Of the text that is cut, about."""


class Cost(NamedTuple):
    """What a text costs under one tokenizer."""

    name: str
    pieces: int
    words: int
    """Between spaces."""
    unknown: int
    """Pieces that are unk."""


def fertility(config: DataConfig, words: Tokenizer, *, against: Path, text: str | None = None) -> list[Cost]:
    """The cost of a text under the tokenizer of a dataset, and under another one.

    Args:
      against: the folder of a tokenizer or a model, a prepared dataset or a workdir.
      text: a data.source; None: held-out documents of the dataset, if its own sources are still there.

    Raises:
      FileNotFoundError, UserError: there is no tokenizer in the folder, or no text.
    """
    inner = against / "tokenizer"
    other = tokenizer.load(inner if inner.is_dir() else against)
    found = _first(documents(text)) if text is not None else _held_out(config)
    lines = [line for document in found for line in document.lines]
    if not lines:
        raise UserError("there is no held-out text to compare tokenizers on: give --text files:GLOB")
    return [_cost(config.dir, words, lines), _cost(str(against), other, lines)]


def _held_out(config: DataConfig) -> Iterator[Document]:
    """Held-out documents, or any where none are held out; as much of each source."""
    fraction, seed = config.validation_fraction, config.seed
    for source in config.sources:
        try:
            known = documents(source, text_field=config.text_field)
            yield from _first(
                (d for d in known if not fraction or in_validation(d, fraction=fraction, seed=seed)),
                CHARACTERS // len(config.sources),
            )
        except (OSError, UserError) as error:
            raise UserError(
                f"the text that the dataset was made of cannot be read ({error}): give --text files:GLOB"
            ) from error


def _first(found: Iterable[Document], characters: int = CHARACTERS) -> Iterator[Document]:
    """As many documents as have so many characters."""
    for document in found:
        yield document
        characters -= document.characters
        if characters <= 0:
            return


def _cost(name: str, words: Tokenizer, lines: Sequence[str]) -> Cost:
    unk, given = words.special_tokens.unk, iter(lines)
    pieces = unknown = 0
    while some := list(islice(given, 1000)):
        for ids in words.encode_batch(some):
            pieces += len(ids)
            unknown += 0 if unk is None else ids.count(unk)
    return Cost(name, pieces, sum(len(line.split()) for line in lines), unknown)
