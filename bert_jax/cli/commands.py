"""The verbs of `bert-jax`: a dataclass for each, whose fields are its flags.

Each imports what it needs when it runs, so that none waits for the libraries of another.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bert_jax.config import Config
from bert_jax.config.as_json import to_json
from bert_jax.parallel.exit_status import DIFFERENT, INTERRUPTED, OK, USER_ERROR
from data_pipeline.errors import UserError
from data_pipeline.storage import cache_folder

if TYPE_CHECKING:
    from data_pipeline.manifest import Manifest

FromFile = Annotated[Config, tyro.conf.arg(name="")]
"""The config of a CONFIG file, with a flag for each field and no prefix."""


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

        _at_least_1("--rows", self.rows)
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


@dataclass(frozen=True)
class Pretrain:
    """Train in a workdir, or resume the run that is there."""

    config: FromFile
    workdir: Path
    """Checkpoints and metrics of the run. The same command resumes the run that it holds."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.run.pretrain import pretrain

        return OK if pretrain(self.config, workdir=self.workdir) else INTERRUPTED


@dataclass(frozen=True)
class Benchmark:
    """How fast this machine trains: step time, tokens a second, MFU, memory, waiting for data."""

    config: FromFile
    steps: int = 20
    """Steps to time."""
    profile: Path | None = None
    """A folder for a trace of five steps: `pip install xprof`, then `xprof --logdir DIR`."""
    cache: Path = Path("runs/compiled")
    """A folder for compiled programs."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        if self.steps < 1:
            raise UserError(f"--steps is {self.steps}; it must be at least 1")
        runtime.configure(cache=self.cache)
        from bert_jax.interop.initialize import resolve
        from bert_jax.run.benchmark import benchmark, report

        result = benchmark(resolve(self.config), steps=self.steps, profile=self.profile)
        print("\n".join(report(result)))
        return OK


@dataclass(frozen=True)
class Plan:
    """What a run would need on TPUs or GPUs that are not here: memory, collectives, time at best."""

    config: FromFile
    topology: str
    """A TPU's shape: v5e:16x16, v4:8x8x8, v5p:8x8x8, v6e:16x16 ... (a v4 or v5p name counts chips); or hosts
    and GPUs a host: h100:4x8; h100, h200, a100, a100-40g, b200, l4."""
    slices: int = 1
    """Several of a TPU's, joined by the data centre's network."""
    find_batch: bool = False
    """Compile for 1, 2, 4 ... rows a chip, to the largest microbatch that fits."""
    cache: Path = Path("runs/compiled")
    """The compiler's answers are kept here: a question asked again is answered at once."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the pod is not here, and need not be looked for
        from bert_jax.interop.initialize import resolve
        from bert_jax.planning.plan import find_pod, plan, plan_largest_batch, report

        _at_least_1("--slices", self.slices)
        pod = find_pod(self.topology, slices=self.slices)
        spec = resolve(self.config, platform=pod.platform)
        if not self.find_batch:
            print("\n".join(report(plan(spec, pod, cache=self.cache))))
            return OK
        largest = 0
        for found in plan_largest_batch(spec, pod, cache=self.cache):
            verdict = "fits" if found.fits else "does not fit"
            print(
                f"{found.rows:5d} rows a chip: {found.compiled.memory / 2**30:8.3f} GiB, {verdict}",
                flush=True,
            )
            largest = found.rows if found.fits else largest
        print(f"the largest microbatch that fits has {largest} rows a chip")
        return OK


@dataclass(frozen=True)
class Evaluate:
    """Held-out metrics of the latest checkpoint, beside what knowing no context would reach."""

    config: FromFile
    workdir: Path
    detailed: bool = False
    """Also by the frequency of the tokens, and the pseudo-perplexity: every token masked by itself."""
    rows: int = 64
    """Rows for the pseudo-perplexity, at most; each takes up to as many passes as it has tokens."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        _at_least_1("--rows", self.rows)
        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.interop.initialize import resolve
        from bert_jax.run.evaluate import evaluate_workdir

        spec = resolve(self.config)
        metrics = evaluate_workdir(spec, workdir=self.workdir)
        for name, value in metrics.items():
            print(f"{name:22s} {value:.4f}" if isinstance(value, float) else f"{name:22s} {value}")
        if self.detailed:
            from bert_jax.analysis.scoring import report, score_workdir

            print(flush=True)
            step = int(metrics["step"])
            scores = score_workdir(spec, workdir=self.workdir, step=step, rows=self.rows)
            print("\n".join(report(scores)))
        return OK


@dataclass(frozen=True)
class Report:
    """A page with pictures of a run: curves, what happened to it, how it compares with others."""

    workdir: Path
    compare: tuple[Path, ...] = ()
    """Workdirs of other runs, to be shown beside it."""
    reference: Path | None = None
    """A metrics.jsonl, to be drawn behind its curves."""
    out: Path | None = None
    """A folder for index.html and the pictures as PNG files. Not given: WORKDIR/report."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the devices may be busy with the run
        from bert_jax.analysis.report import read, summary
        from bert_jax.analysis.report_page import write
        from bert_jax.workdir.bucket import named

        report = read(self.workdir, compare=self.compare, reference=self.reference)
        index = write(report, self.out or self.workdir / "report")
        print("\n".join(summary(report)))
        print(named(f"written to {index}"))
        return OK


@dataclass(frozen=True)
class ListCheckpoints:
    """The checkpoints of a run: step, size, age, validation loss, and whether their files are as written."""

    workdir: Path

    def __call__(self) -> int:
        from bert_jax.workdir.inventory import listing

        sound = True
        for line, wrong in listing(self.workdir):
            print(line + (f"  DAMAGED: {wrong}" if wrong else "  good"), flush=True)
            sound = sound and not wrong
        return OK if sound else USER_ERROR


@dataclass(frozen=True)
class Compare:
    """Whether two runs are the same, bit for bit, or where they differ. Exit status 1 if they do."""

    one: tyro.conf.Positional[Path]
    """A workdir."""
    other: tyro.conf.Positional[Path]
    """Another one."""

    def __call__(self) -> int:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the devices may be busy with the run
        from bert_jax.analysis.compare import compare

        found = []
        for line, alike in compare(self.one, self.other):
            print(line, flush=True)
            found.append(alike)
        if False in found:
            print("the runs differ")
            return DIFFERENT
        if None in found:
            print("what the runs have in common is the same, but too little to tell")
            return USER_ERROR
        print("the runs are the same")
        return OK


@dataclass(frozen=True)
class Finetune:
    """Train a pretrained encoder for a task, on labelled examples."""

    config: FromFile
    workdir: Path
    """Checkpoints and metrics of the run. The same command resumes the run that it holds."""
    seeds: tuple[int, ...] = ()
    """A run for each, in workdir/seed-0 ..., and their mean and spread."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.finetuning.finetune import finetune, report

        results = finetune(self.config, workdir=self.workdir, seeds=self.seeds)
        if results is None:
            return INTERRUPTED
        print("\n".join(report(results)))
        return OK


@dataclass(frozen=True)
class Glue:
    """Fine-tune for the tasks of GLUE, and print one table."""

    config: FromFile
    workdir: Path
    """A folder in it for each task and seed."""
    tasks: tuple[str, ...] = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    seeds: tuple[int, ...] = (0,)
    files: Path | None = None
    """A folder with TASK/train.tsv and TASK/validation.tsv; None: TFDS, glue/TASK."""

    def __call__(self) -> int:
        from bert_jax.parallel import runtime

        runtime.configure(cache=compiled_programs(self.workdir))
        from bert_jax.finetuning.glue import glue

        table = glue(self.config, workdir=self.workdir, tasks=self.tasks, seeds=self.seeds, files=self.files)
        if table is None:
            return INTERRUPTED
        print("\n".join(table))
        return OK


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
            _at_least_1("--average", self.average)
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
    batch_size: int = 32
    top: int = 5
    """Words for each [MASK], for a model that was only pretrained."""

    def __call__(self) -> int:
        from bert_jax.inference.predict import predictions

        _at_least_1("--batch-size", self.batch_size)
        _at_least_1("--top", self.top)
        for prediction in predictions(
            self.directory, file=self.input, lines=sys.stdin.buffer, batch_size=self.batch_size, top=self.top
        ):
            print(json.dumps(prediction, ensure_ascii=False), flush=True)
        return OK


@dataclass(frozen=True)
class Embed:
    """Write the vectors of texts to a file."""

    directory: tyro.conf.Positional[Path]
    """A folder of Sentence Transformers or of an encoder, or a workdir."""
    out: Path
    """FILE.npy: an array of float32, a row a text; or FILE.parquet: the column embedding."""
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

        _check_dimensions(self.dimensions)
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

        _check_dimensions(self.dimensions)
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

        _at_least_1("--top", self.top)
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
        from bert_jax.analysis.explain import explain, report, to_json
        from bert_jax.analysis.explanation_page import explanation_page

        explanation = explain(self.directory, self.text, pair=self.pair, label=self.label)
        print("\n".join(report(explanation)))
        for file, content in ((self.html, explanation_page), (self.json, to_json)):
            if file is not None:
                file.write_text(content(explanation), encoding="utf-8")
                print(f"written to {file}")
        return OK


@dataclass(frozen=True)
class ShowConfig:
    """Print the config with all its fields as JSON."""

    config: FromFile

    def __call__(self) -> int:
        print(to_json(self.config), end="")
        return OK


def _at_least_1(flag: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{flag} is {value}; it must be at least 1")


def _check_dimensions(value: int | None) -> None:
    if value is not None:
        _at_least_1("--dimensions", value)


def compiled_programs(workdir: Path) -> Path:
    """Where runs that are neighbours share compiled programs."""
    from bert_jax.workdir.bucket import is_copy

    return (cache_folder() if is_copy(workdir) else workdir.absolute().parent) / "compiled"


VERBS: dict[str, type] = {
    "prepare": Prepare,
    "inspect-data": InspectData,
    "make-pairs": MakePairs,
    "pretrain": Pretrain,
    "benchmark": Benchmark,
    "plan": Plan,
    "evaluate": Evaluate,
    "compare": Compare,
    "finetune": Finetune,
    "glue": Glue,
    "checkpoints": ListCheckpoints,
    "report": Report,
    "export": Export,
    "fill-mask": FillMask,
    "predict": Predict,
    "embed": Embed,
    "evaluate-retrieval": EvaluateRetrieval,
    "explain": Explain,
    "show-config": ShowConfig,
}
