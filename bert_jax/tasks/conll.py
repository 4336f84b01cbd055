"""CoNLL files, CoNLL-U among them: a word a line, its columns beside it, an empty line between sentences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bert_jax.config import TokenClassificationConfig
from bert_jax.tasks import records
from data_pipeline.compression import kind_of
from data_pipeline.errors import UserError, require

NAMES = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
"""The columns of CoNLL-U (universaldependencies.org/format.html)."""

_COMMENT = re.compile(r"#\s*(\S+\s*=|newdoc\b|newpar\b|id\b|https?:)")
"""A line before the first word of a sentence that looks like one of CoNLL-U's. "# O" may be a word."""
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")
"""CoNLL-U's number of several words written as one, or of a word that is not written."""


class _Row(NamedTuple):
    line: int
    text: str
    cells: list[str]


def read(path: str, settings: TokenClassificationConfig, *, labelled: bool) -> Iterator[records.Record]:
    """The sentences, each of which is where its first word is.

    task.text and task.label name columns by number, from 1 on, or as CoNLL-U does. Otherwise words are the
    first column and labels the last one; in a .conllu FORM and UPOS.

    Raises:
      UserError: a row is broken, or a column is not there; or it numbers words, and words are expected.
    """
    sentences = list(_sentences(path))
    bodies = [[row for row in sentence if row.text[0] != "#"] for sentence in sentences]
    numbered = _is_numbered([body for body in bodies if body])
    width = max(2, len(next((row.cells for body in bodies for row in body), ())))
    is_conllu = kind_of(path) == ".conllu"
    word_at, label_at = (_place(name, settings, labelled=labelled) for name in ("text", "label"))
    if word_at is None:
        require(
            is_conllu or not (numbered and labelled),
            f"{path}: the first column numbers the words; say which ones hold words and labels, as in "
            "--task.text 2 --task.label 3, or by CoNLL-U's names, FORM and UPOS",
        )
        word_at = NAMES.index("FORM") if is_conllu or numbered else 0
    if label_at is None:
        label_at = NAMES.index("UPOS") if is_conllu else -1

    def is_comment(row: _Row) -> bool:
        return row.text[0] == "#" and (
            numbered or bool(_COMMENT.match(row.text)) or (labelled and len(row.cells) != width)
        )

    for sentence in sentences:
        rows = list(itertools.dropwhile(is_comment, sentence))
        if numbered:
            rows = [row for row in rows if not _NO_WORD.fullmatch(row.cells[0])]
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
    rows = (_Row(number, line.strip(" \t\r\n"), []) for number, line in enumerate(records.lines_of(path), 1))
    rows = (row._replace(cells=_cells(row.text)) for row in rows)
    for is_gap, group in itertools.groupby(rows, lambda row: row.cells[:1] in ([], ["-DOCSTART-"])):
        if not is_gap:
            yield list(group)


def _cells(text: str) -> list[str]:
    if text.count("\t") == len(NAMES) - 1:  # CoNLL-U, which has words with spaces in them
        return [cell.strip() for cell in text.split("\t")]
    return re.findall(r"[^ \t\r\n]+", text)  # not str.split(), which splits a word at its no-break space


def _is_numbered(sentences: Sequence[Sequence[_Row]]) -> bool:
    """Whether the first column counts the words of each sentence. One word alone proves nothing."""

    def counts(sentence: Sequence[_Row]) -> bool:
        numbers = [row.cells[0] for row in sentence if not _NO_WORD.fullmatch(row.cells[0])]
        return any(numbers == [str(start + i) for i in range(len(numbers))] for start in (0, 1))

    return any(len(sentence) > 1 for sentence in sentences) and all(map(counts, sentences))


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
