"""Verbs for models: out of a workdir, and what they say."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from bert_jax.cli.flags import at_least_1, check_dimensions, check_folder_of
from bert_jax.parallel.exit_status import OK
from data_pipeline.errors import UserError
from data_pipeline.storage import cache_folder


@dataclass(frozen=True)
class Export:
    """Write weights and tokenizer of a run for Hugging Face Transformers, with a model card."""

    workdir: Path
    out: Path
    """A new folder."""
    step: int | None = None
    """Step of the checkpoint. Not given: the latest of a pretraining, the best of a fine-tuning."""
    every_checkpoint: bool = False
    """Export all checkpoints, each to OUT/step-N."""
    average: int | None = None
    """Export the mean of so many checkpoints of a pretraining: the last ones that are there, up to --step."""
    ema: bool = False
    """Export the exponential moving average that a run with optimizer.ema_decay keeps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    masked_lm: bool = False
    """Export the masked-LM head alone, such as BertForMaskedLM in place of BertForPreTraining."""
    license: str | None = None
    """License for the model card, as the Hub names it: apache-2.0."""
    dimensions: int | None = None
    """For embeddings: numbers that Sentence Transformers keeps of a vector, one of task.dimensions."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the devices may be busy with the run
        from bert_jax.interop.export import export, export_every
        from bert_jax.workdir.bucket import named

        if self.every_checkpoint and self.step is not None:
            raise UserError(
                f"--step {self.step} is one checkpoint, --every-checkpoint is all: give one of them"
            )
        if self.average is not None:
            at_least_1("--average", self.average)
            if self.every_checkpoint or self.ema:
                other = "--every-checkpoint" if self.every_checkpoint else "--ema"
                raise UserError(f"--average and {other} do not go together: give one of them")
        how: Any = {
            "dtype": self.dtype,
            "masked_lm": self.masked_lm,
            "license": self.license,
            "ema": self.ema,
            "dimensions": self.dimensions,
        }
        if self.every_checkpoint:
            for folder in export_every(self.workdir, out=self.out, **how):
                print(named(str(folder)))
            return OK
        steps = export(self.workdir, out=self.out, step=self.step, average=self.average, **how)
        what = (
            "the moving average at step" if self.ema else "step" if len(steps) == 1 else "the mean of steps"
        )
        found = f"{what} {', '.join(map(str, steps))} of {self.workdir}"
        print(named(f"{found} is in {self.out}; its README.md says how to load it"))
        return OK


@dataclass(frozen=True)
class Predict:
    """What a trained model predicts for each text: a line of JSON for each."""

    directory: tyro.conf.Positional[Path]
    """An exported folder, or a workdir."""
    input: str | None = None
    """A file as --task.train takes it, labels or not, or tfds:NAME:SPLIT; for a model that was only
    pretrained, texts with [MASK], one a line, packed or not. Not given: standard input, a text a line; for
    questions and for pairs a JSON object a line, with question and context or with the two columns."""
    text: str | None = None
    """Column of the text, if it is not that of the training."""
    pair: str | None = None
    """Column of a second text: for a model of others that reads pairs, whose folder does not say so."""
    batch_size: int = 32
    top: int = 5
    """Words for each [MASK], for a model that was only pretrained."""

    def __call__(self) -> int:
        from bert_jax.inference.predict import predictions

        at_least_1("--batch-size", self.batch_size)
        at_least_1("--top", self.top)
        for prediction in predictions(
            self.directory,
            file=self.input,
            lines=sys.stdin.buffer,
            batch_size=self.batch_size,
            top=self.top,
            text=self.text,
            pair=self.pair,
        ):
            print(json.dumps(prediction, ensure_ascii=False), flush=True)
        return OK


@dataclass(frozen=True)
class Embed:
    """Write the vectors of texts to a file."""

    directory: tyro.conf.Positional[Path]
    """A folder of Sentence Transformers or of an encoder, or a workdir."""
    out: Path
    """A new file. FILE.npy: an array of float32, a row a text; or FILE.parquet: the column vector."""
    input: str | None = None
    """A file of texts, a line each (.txt) or in a column (.jsonl, .tsv, .csv), or tfds:NAME:SPLIT. Not given:
    standard input, a text a line."""
    text: str = "text"
    """Column of the text."""
    prompt: str | None = None
    """What goes in front of each text: query or document, as the model has them, or a text of your own."""
    dimensions: int | None = None
    """Numbers to keep of each vector, if the model was trained for it; those of length 1 have it again."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the computation. auto: bfloat16, but float32 on a CPU."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        check_dimensions(self.dimensions)
        check_folder_of("--out", self.out)
        runtime.configure(cache=cache_folder() / "compiled")
        from bert_jax.inference.embed import embed

        count, size = embed(
            self.directory,
            file=self.input,
            lines=sys.stdin.buffer,
            out=self.out,
            column=self.text,
            prompt=self.prompt,
            dimensions=self.dimensions,
            dtype=self.dtype,
        )
        print(f"{count:,} vectors of {size} numbers: {self.out}")
        return OK


@dataclass(frozen=True)
class EvaluateRetrieval:
    """How well a model finds the documents that belong to queries: NDCG, MRR, MAP, recall."""

    directory: tyro.conf.Positional[Path]
    """A folder of Sentence Transformers or of an encoder, or a workdir."""
    files: Path
    """A folder as BEIR has it: corpus.jsonl, queries.jsonl, and qrels/test.tsv or qrels.tsv."""
    dimensions: int | None = None
    """Numbers to keep of each vector, as in embed."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the computation. auto: bfloat16, but float32 on a CPU."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        check_dimensions(self.dimensions)
        runtime.configure(cache=cache_folder() / "compiled")
        from bert_jax.inference.retrieval import evaluate

        found = evaluate(self.directory, files=self.files, dimensions=self.dimensions, dtype=self.dtype)
        for name, value in found.items():
            print(f"{name:22s} {value:.4f}")
        return OK


@dataclass(frozen=True)
class FillMask:
    """The likeliest words for each [MASK] in a text."""

    directory: tyro.conf.Positional[Path]
    """An exported folder, or a workdir."""
    text: tyro.conf.Positional[str]
    top: int = 5

    def __call__(self) -> int:
        from bert_jax.inference.fill_mask import fill_mask

        at_least_1("--top", self.top)
        for guesses in fill_mask(self.directory, self.text, top=self.top):
            print("  " + "   ".join(f"{guess.word} {guess.probability:.3f}" for guess in guesses))
        return OK


@dataclass(frozen=True)
class Explain:
    """Why a trained model predicts what it predicts: what each token adds, and where each head looks."""

    directory: tyro.conf.Positional[Path]
    """An exported folder, or a workdir."""
    text: tyro.conf.Positional[str]
    """The text; for question answering the question; with a [MASK], for a model that was only pretrained."""
    pair: str | None = None
    """A second text; for question answering the context."""
    label: str | None = None
    """What to explain in place of the prediction."""
    html: Path | None = None
    """Write a page with colours and attention maps to this file."""
    json: Path | None = None
    """Write all numbers to this file."""

    def __call__(self) -> int:
        check_folder_of("--html", self.html)
        check_folder_of("--json", self.json)
        from bert_jax.analysis.explain import explain, report, to_json
        from bert_jax.analysis.explanation_page import explanation_page

        explanation = explain(self.directory, self.text, pair=self.pair, label=self.label)
        print("\n".join(report(explanation)))
        for file, content in ((self.html, explanation_page), (self.json, to_json)):
            if file is not None:
                file.write_text(content(explanation), encoding="utf-8")
                print(f"written to {file}")
        return OK
