"""CoNLL files, CoNLL-U among them: a word a line, its columns beside it, an empty line between sentences."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from bert_jax.config import TokenClassificationConfig
from bert_jax.tasks import records
from data_pipeline.compression import kind_of
from data_pipeline.errors import UserError, require

NAMES = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
"""The columns of CoNLL-U (universaldependencies.org/format.html)."""

_COMMENT = re.compile(r"#\s+(\S+\s*=|newdoc\b|newpar\b|https?:)|#(begin|end) document\b")
"""What the comments of CoNLL-U, GermEval and CoNLL-2012 look like. "#newdoc" and "# O" may be words."""
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")
"""CoNLL-U's number of several words written as one, or of a word that is not written."""
_LAST_NUMBER = re.compile(r"([0-9]{1,9})[^0-9]*$")
_MOST = 0.75
"""The share of rows that says what a file is: a few of its rows may be wrong."""
_PROOF = 4
"""So many times in a row the same cell are no words."""


class _Row(NamedTuple):
    line: int
    text: str
    cells: list[str]


def read(path: str, settings: TokenClassificationConfig, *, labelled: bool) -> Iterator[records.Record]:
    """The sentences, each of which is where its first word is.

    task.text and task.label name columns by number, from 1 on, or as CoNLL-U does. Otherwise words are the
    first column and labels the last one; in a .conllu FORM and UPOS.

    A row that begins with # is a comment if it looks like one that is known, or can be no word: it has too
    many or too few columns, or behind the # comes a space, and at its end no label that others have.

    Raises:
      UserError: a row is broken, or a column is not there; or it numbers words, and words are expected.
    """
    sentences = list(_sentences(path))
    bodies = [[row for row in sentence if row.text[0] != "#"] for sentence in sentences]
    widths = [len(row.cells) for body in bodies for row in body]
    width = max([2, *widths[:1]])
    numbered = max(widths, default=0) > 1 and _is_numbered(bodies, width)
    is_conllu = kind_of(path) == ".conllu"
    word_at, label_at = (_place(name, settings, labelled=labelled) for name in ("text", "label"))
    if word_at is None:
        require(
            is_conllu or not ((labelled and numbered) or _is_one(bodies)),
            f"{path}: the first column {'numbers the' if numbered else 'is the same for all'} words; say "
            "which ones hold words and labels, as in --task.text 2 --task.label 3, or by CoNLL-U's names, "
            "FORM and UPOS",
        )
        word_at = NAMES.index("FORM") if is_conllu or numbered else 0
    if label_at is None:
        label_at = NAMES.index("UPOS") if is_conllu else -1

    expected = {width} if labelled else set(widths or [1])
    fitting = [row for sentence in sentences for row in sentence if len(row.cells) == width > label_at]
    known = {row.cells[label_at] for row in fitting if row.cells[0] != "#"}

    def is_comment(row: _Row, *, leads: bool) -> bool:
        if row.text[0] != "#":
            return False
        if numbered or _COMMENT.match(row.text):
            return True
        if len(row.cells) not in expected:
            return leads or row.cells[0] == "#"
        return labelled and row.cells[0] == "#" and not (width > label_at and row.cells[label_at] in known)

    for sentence in sentences:
        rows: list[_Row] = []
        for row in sentence:
            rows += [] if is_comment(row, leads=not rows) else [row]
        if numbered:
            rows = _written(rows)
        if not rows:
            continue
        for row in rows:
            found, where = len(row.cells), f"{path} line {row.line}"
            if labelled and found != width:
                raise UserError(f"{where}: a broken row of {found} columns, not {width}")
            if (highest := max(word_at, label_at if labelled else 0)) >= found:
                raise UserError(f"{where} has {found} columns, and no column {highest + 1}")
        words = [row.cells[word_at] for row in rows]
        labels = [row.cells[label_at] for row in rows if labelled]
        yield f"{path} line {rows[0].line}", {settings.label: labels, settings.text: words}


def _sentences(path: str) -> Iterator[list[_Row]]:
    lines = [line.strip(" \t\r\n") for line in records.lines_of(path)]
    tabs = Counter(line.count("\t") for line in lines if line and line[0] != "#" and line != "-DOCSTART-")
    most, times = max(tabs.items(), key=lambda found: found[1], default=(0, 0))
    tabbed = most > 0 and times >= _MOST * tabs.total()
    rows = (_Row(number, line, _cells(line, tabbed=tabbed)) for number, line in enumerate(lines, 1))
    for is_gap, group in itertools.groupby(rows, lambda row: row.cells[:1] in ([], ["-DOCSTART-"])):
        if not is_gap:
            yield list(group)


def _cells(text: str, *, tabbed: bool) -> list[str]:
    """Between tabs, if nearly all rows have as many: words may have spaces in them, and cells be empty."""
    if tabbed and "\t" in text:
        return [cell.strip(" ") for cell in text.split("\t")]
    return re.findall(r"[^ \t\r\n]+", text)  # not str.split(), which splits a word at its no-break space


def _written(rows: list[_Row]) -> list[_Row]:
    """Without those of several words in one, and of words that are not written."""
    return [row for row in rows if not _NO_WORD.fullmatch(row.cells[0])] or rows


def _is_numbered(sentences: list[list[_Row]], width: int) -> bool:
    """Whether the first column counts the words, 1, 2 or "s1-1", "s1-2", or is of numbers and not alone."""
    cells = [row.cells[0] for sentence in sentences for row in _written(sentence)]
    if cells and width > 2 and all(re.fullmatch("[0-9]+", cell) for cell in cells):
        return True

    def counts_on(one: str, other: str) -> bool:
        found = [int(match[1]) for cell in (one, other) if (match := _LAST_NUMBER.search(cell))]
        return len(found) == 2 and found[0] + 1 == found[1]

    steps = [counts_on(*pair) for pair in _first_cells(sentences)]
    return sum(steps) >= _MOST * len(steps) > 0


def _is_one(sentences: list[list[_Row]]) -> bool:
    """Whether the first column is the name of a document, as in CoNLL-2012."""
    steps = [one == other for one, other in _first_cells(sentences)]
    return sum(steps) >= max(_PROOF, _MOST * len(steps))


def _first_cells(sentences: list[list[_Row]]) -> Iterator[tuple[str, str]]:
    """Those of a word and of the next one."""
    for sentence in sentences:
        for one, other in itertools.pairwise(_written(sentence)):
            yield one.cells[0], other.cells[0]


def _place(flag: str, settings: TokenClassificationConfig, *, labelled: bool) -> int | None:
    """The column, from 0 on, that a field of the config names; None: the usual one.

    A model that was trained on files with named columns reads the usual ones to predict.
    """
    name = getattr(settings, flag)
    if re.fullmatch(r"[1-9][0-9]{0,3}", name):
        return int(name) - 1
    if name.upper() in NAMES:
        return NAMES.index(name.upper())
    require(
        not labelled or name == getattr(TokenClassificationConfig, flag),
        f"task.{flag} is {name!r}; a column of a CoNLL file has a number, from 1 on, or a name of CoNLL-U: "
        f"{', '.join(NAMES)}",
    )
    return None
