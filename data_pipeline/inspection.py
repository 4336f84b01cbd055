"""What is in a prepared dataset, for a person to read. `bert-jax inspect-data` prints it.

Counts are those that `prepare` took of all rows; health and examples are read from the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice, pairwise
from operator import add
from pathlib import Path

import numpy as np

from data_pipeline import tokenizer
from data_pipeline.batch import unpack
from data_pipeline.blocks import Statistics
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from data_pipeline.fertility import Cost, fertility
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import STATISTICS
from data_pipeline.tokenizer import Tokenizer

ROWS_READ = 2048
"""Training rows that are read to see whether they can be."""


@dataclass(frozen=True)
class Token:
    """A piece of a row as the model sees it."""

    text: str
    """The piece, with a space in front where a word begins."""
    replacement: str = ""
    """"masked", "random", "kept", or "" for a token that is not predicted."""
    shown: str = ""
    """What the model sees in place of `text`."""
    is_special: bool = False


@dataclass(frozen=True)
class Inspection:
    config: DataConfig
    manifest: Manifest
    words: Tokenizer
    parts: dict[tuple[str, str], Statistics]
    """Counts by source and split."""
    rows: list[list[Token]]
    """A few training rows, masked."""
    rows_read: int
    costs: list[Cost]
    """Of a text under its tokenizer and under another one, if there is one to compare with."""

    def total(self, split: str) -> Statistics:
        return reduce(add, (counted for (_, of), counted in self.parts.items() if of == split))

    def frequent_pieces(self, count: int) -> list[tuple[str, float]]:
        """The most frequent ordinary pieces of the training rows, each with its share."""
        counts = self.total("train").token_counts.copy()
        counts[self.words.special_tokens.ids] = 0
        order = np.argsort(-counts, kind="stable")[:count]
        return [(self.words.pieces[i], float(counts[i] / counts.sum())) for i in order]


def inspect(
    directory: Path, *, rows: int = 3, against: Path | None = None, text: str | None = None
) -> Inspection:
    """Gathers what is to know of the dataset in `directory`, with `rows` rows to look at.

    Args:
      against: a folder with another tokenizer, to compare with.
      text: what they are compared on, see `fertility`.

    Raises:
      FileNotFoundError, UserError: it is no dataset of this version, or its files are damaged; says where.
    """
    manifest = Manifest.load(directory)
    config = manifest.config(directory)
    words = tokenizer.load(directory / "tokenizer")
    if words.sha256 != manifest.tokenizer_sha256:
        raise UserError(f"{directory}/tokenizer is not the tokenizer that the dataset was prepared with")
    batch_size = 64
    batches = min(ROWS_READ, manifest.rows["train"]) // batch_size + 1
    with Loader(config, split="train", batch_size=batch_size) as loader:
        first = unpack(next(loader))
        for batch in islice(loader, batches - 1):
            if batch["token_ids"].max() >= words.vocab_size:
                raise UserError(f"{directory}: a row has a token that is not in the vocabulary")
    return Inspection(
        config=config,
        manifest=manifest,
        words=words,
        parts={
            (part["source"], part["split"]): Statistics.from_json(part["counts"])
            for part in json.loads((directory / STATISTICS).read_text())
        },
        rows=[_tokens(first, row, words) for row in range(rows)],
        rows_read=batches * batch_size,
        costs=[] if against is None else fertility(config, words, against=against, text=text),
    )


def token_counts(directory: Path, split: str) -> np.ndarray:
    """[V] int64: how often each token is in the rows of a split, as `prepare` counted them."""
    parts = json.loads((directory / STATISTICS).read_text())
    counts = [part["counts"]["token_counts"] for part in parts if part["split"] == split]
    return np.sum(np.asarray(counts, np.int64), axis=0)


def _tokens(batch: dict[str, np.ndarray], row: int, words: Tokenizer) -> list[Token]:
    predicted = dict(zip(batch["mlm_positions"][row], batch["mlm_targets"][row], strict=True))
    if not batch["mlm_weights"][row].all():
        predicted.pop(0, None)  # of the unused slots
    found = []
    for column in np.flatnonzero(batch["segment_ids"][row]):
        seen = batch["token_ids"][row, column]
        true = predicted.get(column, seen)
        if column not in predicted:
            replacement = ""
        elif seen == words.special_tokens.mask:
            replacement = "masked"
        else:
            replacement = "kept" if seen == true else "random"
        is_special = true in words.special_tokens.ids
        found.append(Token(words.text(true), replacement, words.text(seen).strip(), is_special))
    return found


def report(inspection: Inspection) -> Iterator[str]:
    """Lines for a terminal."""
    manifest, train = inspection.manifest, inspection.total("train")
    for number, source in enumerate(manifest.sources, 1):
        yield f"source {number}: {source}"
    yield ""
    yield from table(facts(inspection))
    yield ""
    yield f"fingerprint {manifest.fingerprint[:16]}; {inspection.rows_read:,} rows were read, in order"
    if manifest.majority_nsp_accuracy is not None:
        yield f"always the same answer to the pairs: {manifest.majority_nsp_accuracy:.1%} right"
    yield (
        f"knowing the frequencies of the pieces and no context: loss {manifest.unigram_loss:.3f} nats "
        "(a model that learns gets below)"
    )
    if inspection.costs:
        yield "\nwhat a text costs under two tokenizers"
        yield from table(comparison(inspection.costs))
    yield "\ntokens in a sequence"
    yield from histogram(sequence_lengths(train))
    yield "\ntokens in a document"
    yield from histogram(document_lengths(train))
    yield "\nmost frequent pieces"
    pieces = [f"{piece} {share:.2%}" for piece, share in inspection.frequent_pieces(24)]
    for start in range(0, len(pieces), 6):
        yield "  " + "   ".join(f"{piece:16s}" for piece in pieces[start : start + 6]).rstrip()
    yield "\ntraining rows: [hidden], [true→random], [kept=]"
    for row in inspection.rows:
        yield "  " + "".join(map(_marked, row)).strip()


def _marked(token: Token) -> str:
    space = " " * token.text.startswith(" ")
    text = token.text.strip()
    match token.replacement:
        case "masked":
            return f"{space}[{text}]"
        case "random":
            return f"{space}[{text}→{token.shown}]"
        case "kept":
            return f"{space}[{text}=]"
    return token.text


def facts(inspection: Inspection) -> list[list[str]]:
    """A table: a column for each split, of each source if there are several, and a line for each count."""
    size = inspection.manifest.sequence_length

    def share(part: float, whole: float, digits: int = 2) -> str:
        return f"{part / whole:.{digits}%}" if whole else ""

    def ratio(part: float, whole: float) -> str:
        return f"{part / whole:.2f}" if whole else ""

    lines = {
        "documents": lambda c: f"{c.documents:,}",
        "duplicates dropped": lambda c: f"{c.duplicates:,}",
        "characters": lambda c: f"{c.characters:,}",
        "tokens of the text": lambda c: f"{c.pieces:,}",
        "tokens a word": lambda c: ratio(c.pieces, c.words),
        "characters a token": lambda c: ratio(c.characters, c.pieces),
        "unknown tokens": lambda c: share(c.unknown, c.pieces, 4),
        "truncated tokens": lambda c: share(c.truncated, c.pieces),
        f"rows of {size}": lambda c: f"{c.rows:,}",
        "sequences a row": lambda c: ratio(c.sequences, c.rows),
        "full": lambda c: share(c.tokens, c.rows * size),
        "label 1 of pairs": lambda c: share(c.label_counts[1], c.label_counts[:2].sum()),
    }
    sources = inspection.manifest.sources
    heads = [
        f"{split} {sources.index(source) + 1}" if len(sources) > 1 else split
        for source, split in inspection.parts
    ]
    counted = list(inspection.parts.values())
    return [["", *heads], *([name, *map(line, counted)] for name, line in lines.items())]


def comparison(costs: Sequence[Cost]) -> list[list[str]]:
    """A table: a line for each tokenizer; how many pieces more one costs than the first."""
    first = costs[0].pieces
    return [
        ["", "pieces", "a word", "unknown", "more"],
        *(
            [
                cost.name,
                f"{cost.pieces:,}",
                f"{cost.pieces / cost.words:.3f}",
                f"{cost.unknown / cost.pieces:.4%}",
                f"{cost.pieces / first - 1:+.1%}",
            ]
            for cost in costs
        ),
    ]


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


Histogram = list[tuple[str, int]]


def sequence_lengths(counted: Statistics, bins: int = 8) -> Histogram:
    """Sequences by length, in bins of equal width."""
    counts = counted.sequence_lengths[1:]
    edges = np.linspace(0, len(counts), min(bins, len(counts)) + 1).astype(int)
    return [(f"{start + 1}-{stop}", int(counts[start:stop].sum())) for start, stop in pairwise(edges)]


def document_lengths(counted: Statistics) -> Histogram:
    """Documents by length, in bins of powers of two."""
    counts = counted.document_lengths
    used = np.flatnonzero(counts)
    bins = range(used[0], used[-1] + 1) if len(used) else range(0)
    return [(f"{2**i}-{2 ** (i + 1) - 1}" if i else "1", int(counts[i])) for i in bins]


def histogram(bins: Histogram, *, width: int = 40) -> Iterator[str]:
    """Bars of blocks."""
    most = max((count for _, count in bins), default=0) or 1
    for name, count in bins:
        bar = "█" * round(width * count / most) or ("▏" if count else "")
        yield f"  {name:>15s} {count:>12,} {bar}".rstrip()
