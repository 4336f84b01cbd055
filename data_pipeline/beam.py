"""The offline job on Apache Beam, for corpora that are too much for one machine.

The same functions as in prepare.py, and the same rows in the same order: Beam does what the database on
disk and the worker processes do there, and TFDS's Beam support writes the files. Three pipelines run: one
counts, one draws the sample that the tokenizer is trained on (here, where the job is launched), one makes
rows.
"""

from __future__ import annotations

import functools
import importlib
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from data_pipeline import blocks, records
from data_pipeline.blocks import Block, Part, Statistics
from data_pipeline.builder import DESCRIPTION, features, quiet_tfds
from data_pipeline.config import DataConfig
from data_pipeline.corpus import Document, Reader, readers
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest
from data_pipeline.prepare import check, finish, load_tokenizer, sampled_keys, train_tokenizer, unfinished
from data_pipeline.tokenizer import Tokenizer

RUNNERS = {
    "direct": "DirectRunner",
    "dataflow": "DataflowRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
}


def prepare_on_beam(config: DataConfig, *, runner: str, options: Sequence[str] = ()) -> Manifest:
    """Prepares a dataset as `data_pipeline.prepare.prepare` does, on a Beam runner.

    Args:
      config: `config.dir` must be in reach of all workers, like the files of `config.source`: a bucket.
      runner: a key of RUNNERS.
      options: of Beam, as "region=europe-west1".

    Raises:
      UserError, FileExistsError, OSError: as `prepare`.
    """
    pipeline_options = PipelineOptions([f"--{option}" for option in options])
    new_pipeline = functools.partial(beam.Pipeline, runner=RUNNERS[runner], options=pipeline_options)
    try:
        if runner == "dataflow":
            importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
        new_pipeline()
    except ImportError as error:
        raise UserError(f"--runner {runner}: {error}; pip install 'bert-jax[dataflow]'") from error
    except ValueError as error:
        raise UserError(f"--runner {runner} with --runner-options {' '.join(options)}: {error}") from error
    with unfinished(config) as folder:
        characters, empty = blocks.without_empty(_count(config, folder, new_pipeline))
        check(config, characters)
        words = train_tokenizer(config, functools.partial(_sample, config, folder, characters, new_pipeline))
        words.save(folder / "tokenizer")
        builder = PretrainingRows(
            config=config,
            planned=blocks.plan(characters),
            folder=folder,
            words=words,
            file_format="array_record",
            data_dir=folder / "tfds",
        )
        with quiet_tfds():
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(
                    beam_runner=RUNNERS[runner], beam_options=pipeline_options, try_download_gcs=False
                ),
            )
        dataset = folder / "dataset"
        dataset.rmtree()
        epath.Path(builder.data_dir).rename(dataset)
        (folder / "tokenizer").rename(dataset / "tokenizer")
        statistics = {
            (source, split): Statistics.from_json(values)
            for source, split, values in _read_json(folder, "statistics")
        }
        return finish(config, dataset, words, statistics, empty=empty)


def _documents(pipeline: beam.Pipeline, config: DataConfig) -> beam.PCollection:
    """(Part, Document) of all sources."""

    def read(numbered: tuple[int, Reader]) -> Iterator[tuple[Part, Document]]:
        source, reader = numbered
        for document in reader():
            yield (source, blocks.split_of(config, document)), document

    parts = [
        (number, reader)
        for number, source in enumerate(config.sources)
        for reader in readers(source, text_field=config.text_field)
    ]
    return pipeline | "Sources" >> beam.Create(parts) | beam.Reshuffle() | "Read" >> beam.FlatMap(read)


def _count(
    config: DataConfig, folder: epath.Path, new_pipeline: Callable[[], beam.Pipeline]
) -> dict[Part, int]:
    """The size of each part of the corpus."""
    with new_pipeline() as pipeline:
        counts = (
            _documents(pipeline, config)
            | beam.MapTuple(lambda part, document: (part, blocks.size_of(document)))
            | beam.CombinePerKey(sum)
            | beam.MapTuple(lambda part, size: [*part, size])
        )
        _write_json(counts, folder, "characters")
    return {(source, split): size for source, split, size in _read_json(folder, "characters")}


def _sample(
    config: DataConfig,
    folder: epath.Path,
    characters: dict[Part, int],
    new_pipeline: Callable[[], beam.Pipeline],
) -> Iterator[str]:
    """Lines of the documents that the tokenizer is trained on; drawn once, read as often as asked."""
    if not list(folder.glob("sample-*")):
        keys = sampled_keys(characters)
        with new_pipeline() as pipeline:
            documents = (
                _documents(pipeline, config)
                | beam.Filter(lambda item: item[0][1] == "train" and item[1].key in keys)
                | beam.MapTuple(lambda part, document: [part[0], *document])
            )
            _write_json(documents, folder, "sample")
    # In the order of sources and keys, each document once a source: as prepare.py reads it.
    for _, _, lines in blocks.unique(sorted(_read_json(folder, "sample"))):
        yield from lines


class PretrainingRows(tfds.core.GeneratorBasedBuilder):
    """The dataset, written by TFDS's Beam support. Counts of its parts go to `statistics-*` in `folder`."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        config: DataConfig,
        planned: list[Block],
        folder: epath.Path,
        words: Tokenizer,
        **arguments: Any,
    ):
        self._config = config
        self._planned = planned
        self._folder = folder
        self._dtype = records.token_dtype(words.vocab_size)
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=features(self._dtype),
            disable_shuffling=True,  # the keys give the order
        )

    def _split_generators(self, dl_manager: object, pipeline: beam.Pipeline) -> dict[str, beam.PCollection]:
        config, planned, folder = self._config, self._planned, self._folder / "tokenizer"
        totals: dict[Part, int] = {(block.source, block.split): block.total for block in planned}
        splits = sorted({block.split for block in planned})
        in_split = {split: [block for block in planned if block.split == split] for split in splits}
        places = {block: place for listed in in_split.values() for place, block in enumerate(listed)}

        def rows(item: tuple[Block, Any]) -> Iterator[Any]:
            block, documents = Block(*item[0]), item[1]
            examples, statistics = blocks.examples_of_block(config, block, documents, load_tokenizer(folder))
            yield beam.pvalue.TaggedOutput("statistics", ((block.source, block.split), statistics))
            for number, example in enumerate(examples):
                # Numbers in the order of the blocks: TFDS sorts by them.
                yield beam.pvalue.TaggedOutput(block.split, (places[block] << 32 | number, example))

        outputs = (
            _documents(pipeline, config)
            | beam.Filter(lambda item: item[0] in totals)
            | beam.MapTuple(
                lambda part, document: (tuple(blocks.block_of(part, totals[part], document)), document)
            )
            | beam.GroupByKey()
            | "Rows" >> beam.FlatMap(rows).with_outputs("statistics", *splits)
        )
        statistics = (
            outputs["statistics"]
            | beam.CombinePerKey(lambda several: functools.reduce(operator.add, several, Statistics()))
            | beam.MapTuple(lambda part, counted: [*part, counted.to_json()])
        )
        _write_json(statistics, self._folder, "statistics")
        return {split: outputs[split] for split in splits}

    def _generate_examples(self, examples: beam.PCollection) -> beam.PCollection:
        return examples


def _write_json(values: beam.PCollection, folder: epath.Path, name: str) -> None:
    """A value a line, in files that begin with `name`."""
    (
        values
        | f"Encode {name}" >> beam.Map(json.dumps)
        | f"Write {name}" >> beam.io.WriteToText(str(folder / name))
    )


def _read_json(folder: epath.Path, name: str) -> Iterator[Any]:
    for path in sorted(folder.glob(f"{name}-*")):
        yield from map(json.loads, path.read_text().splitlines())
