"""Verbs for data: what rows are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from bert_jax.cli.flags import FromFile, at_least_1, check_folder_of
from bert_jax.parallel.exit_status import OK
from data_pipeline.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.manifest import Manifest


@dataclass(frozen=True)
class Prepare:
    """Read the corpus, train the tokenizer, write the dataset to data.dir."""

    config: FromFile
    runner: Literal["local", "direct", "dataflow", "flink", "spark"] = "local"
    """local: every core of this machine. The others are Apache Beam's; direct is to try it out here."""
    runner_options: tuple[str, ...] = ()
    """Options of Beam, without dashes: project=my-project region=europe-west1 temp_location=gs://my-bucket/tmp"""

    def __call__(self) -> int:
        manifest = self._prepare()
        for split, rows in manifest.rows.items():
            print(
                f"{split}: {manifest.documents[split]:,} documents, {manifest.tokens[split]:,} tokens "
                f"in {rows:,} rows of {manifest.sequence_length}, {manifest.fill[split]:.1%} full"
            )
        if dropped := sum(manifest.duplicates.values()):
            print(f"{dropped:,} documents were dropped: another one has the same text")
        if manifest.empty:
            print(f"{manifest.empty:,} documents were left out: they have no text")
        print(
            f"tokenizer: {manifest.vocab_size:,} pieces; knowing their frequencies and no context costs "
            f"{manifest.unigram_loss:.3f} nats a token"
        )
        print(f"written to {self.config.data.dir}")
        return OK

    def _prepare(self) -> Manifest:
        if self.runner == "local":
            from data_pipeline.prepare import prepare

            return prepare(self.config.data)
        try:
            from data_pipeline.beam import prepare_on_beam
        except ImportError as error:
            raise UserError(
                f"--runner {self.runner} needs Apache Beam ({error}): pip install 'bert-jax[beam]', "
                "for Dataflow 'bert-jax[dataflow]'"
            ) from error
        return prepare_on_beam(self.config.data, runner=self.runner, options=self.runner_options)


@dataclass(frozen=True)
class InspectData:
    """What is in a prepared dataset: counts, lengths, frequent pieces, a few masked rows."""

    directory: tyro.conf.Positional[Path]
    """data.dir of `prepare`."""
    html: Path | None = None
    """Write a page with plots to this file."""
    rows: int = 3
    """Rows to show."""
    against: Path | None = None
    """Another tokenizer, a model, dataset or workdir with one: how many pieces more does a text cost?"""
    text: str | None = None
    """That text, as data.source has it. Not given: held-out documents of the dataset, if its source is still
    there."""

    def __call__(self) -> int:
        from data_pipeline.inspection import inspect, report

        at_least_1("--rows", self.rows)
        check_folder_of("--html", self.html)
        if self.text is not None and self.against is None:
            raise UserError("--text is what two tokenizers are compared on: give --against too")
        inspection = inspect(self.directory, rows=self.rows, against=self.against, text=self.text)
        if self.html is None:
            print("\n".join(report(inspection)))
        else:
            from bert_jax.analysis.inspection_page import inspection_page

            self.html.write_text(inspection_page(inspection), encoding="utf-8")
            print(f"written to {self.html}")
        return OK


@dataclass(frozen=True)
class MakePairs:
    """Write neighbouring passages of documents as pairs, to train embeddings on."""

    source: tyro.conf.Positional[str]
    """As data.source: files:GLOB, tfds:NAME:SPLIT, builtin:python-docs."""
    out: Path
    """A new folder, of train.jsonl and validation.jsonl."""
    words: int = 64
    """Of a passage, at least; it ends where a line does."""
    validation_fraction: float = 0.05
    """Share of the documents whose pairs are held out."""
    seed: int = 0
    """Decides which those are."""
    text_field: str = "text"
    """As data.text_field."""

    def __call__(self) -> int:
        from data_pipeline.passages import write_pairs

        counts = write_pairs(
            self.source,
            self.out,
            words=self.words,
            validation_fraction=self.validation_fraction,
            seed=self.seed,
            text_field=self.text_field,
        )
        for split, count in counts.items():
            print(f"{self.out / split}.jsonl: {count:,} pairs")
        return OK
