"""How well a model finds: a collection of documents, queries and judgements, as BEIR has them (Thakur et al.
2021, arXiv 2104.08663)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from bert_jax.inference import retrieval_metrics
from bert_jax.inference.search import Search, Similarity
from bert_jax.inference.vectors import Dtype, Vectorizer
from bert_jax.interop.load import load_embedder
from bert_jax.tasks import columns, records
from data_pipeline.compression import PACKINGS
from data_pipeline.corpus import sanitize
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

QRELS = ("qrels/test.tsv", "qrels.tsv")


class Collection(NamedTuple):
    """What is searched and how it was judged."""

    documents: list[str]
    """Title and text, sorted by id: of equal scores the lower id is found first."""
    queries: list[str]
    """Those with a relevant document."""
    relevant: list[dict[int, float]]
    """For each query how relevant documents are, by their place in `documents`."""


def evaluate(
    directory: Path, *, files: Path, dimensions: int | None = None, dtype: Dtype = "auto"
) -> dict[str, float]:
    """The metrics of retrieval_metrics.py for a model and a collection.

    Args:
      directory: a folder of Sentence Transformers, one of an encoder, or a workdir.
      files: the folder of the collection.

    Raises:
      FileNotFoundError, UserError: something is missing or cannot be used.
    """
    collection = read(files)
    embedder = load_embedder(directory)
    similarity = embedder.use.similarity
    if similarity not in ("cosine", "dot"):
        raise UserError(f"{directory} compares vectors by {similarity}; known are cosine and dot")
    make = Vectorizer(embedder, dimensions=dimensions, dtype=dtype)
    settings = make.use.settings
    log.info("%s queries, %s documents", f"{len(collection.queries):,}", f"{len(collection.documents):,}")
    queries = list(make(collection.queries, prompt=settings.query_prompt, name="queries"))
    search = Search(
        np.concatenate([vectors.array_NxD for vectors in queries]),
        k=retrieval_metrics.LONGEST,
        similarity=cast(Similarity, similarity),
    )
    cut = 0
    for vectors in make(collection.documents, prompt=settings.document_prompt, name="documents"):
        search.add(vectors.array_NxD)
        cut += len(vectors.cut)
    if cut:
        log.warning("documents cut, because too long: %s", f"{cut:,}")
    return retrieval_metrics.metrics(search.found()[1].tolist(), collection.relevant)


def read(folder: Path) -> Collection:
    """The files of a collection: corpus.jsonl, queries.jsonl, and qrels/test.tsv or qrels.tsv.

    Raises:
      FileNotFoundError, UserError: one is missing, or says what cannot be; names file and row.
    """
    documents = _texts(_file(folder, "corpus.jsonl"), ("title", "text"))
    queries = _texts(_file(folder, "queries.jsonl"), ("text",))
    number = {id: place for place, id in enumerate(sorted(documents))}
    relevant: dict[str, dict[int, float]] = {}
    for where, record in records.filled(records.tsv(str(_file(folder, *QRELS)))):
        query, document = (
            _known(where, record, name, among, file)
            for name, among, file in (
                ("query-id", queries, "queries.jsonl"),
                ("corpus-id", documents, "corpus.jsonl"),
            )
        )
        score = columns.number(where, "score", columns.column(where, record, "score"))
        judged = relevant.setdefault(query, {})
        if number[document] in judged:
            raise UserError(f"{where}: {document!r} was judged for {query!r} before")
        judged[number[document]] = score
    positive = {
        query: {place: score for place, score in relevant.get(query, {}).items() if score > 0}
        for query in queries
    }
    judged_queries = [query for query in queries if positive[query]]
    if not judged_queries:
        raise UserError(
            f"{folder} judges no document relevant to any query; judgements are rows below a header, "
            "query-id corpus-id score"
        )
    return Collection(
        [documents[id] for id in sorted(documents)],
        [queries[query] for query in judged_queries],
        [positive[query] for query in judged_queries],
    )


def _file(folder: Path, *names: str) -> Path:
    """The first that is there, packed or not."""
    found = (folder / f"{name}{packing}" for name in names for packing in ("", *PACKINGS))
    file = next((file for file in found if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder} has no {' or '.join(names)}")
    return file


def _texts(file: Path, parts: tuple[str, ...]) -> dict[str, str]:
    """The texts of a file of JSON lines by their ids: of the last of its parts, behind the others if they are
    there."""
    texts: dict[str, str] = {}
    first: dict[str, str] = {}
    for where, record in records.filled(records.json_lines(str(file))):
        id = columns.identifier(where, "_id", columns.column(where, record, "_id"))
        if id in first:
            raise UserError(f"{where}: the _id {id!r} is that of {first[id].removeprefix(f'{file} ')} too")
        first[id] = where
        columns.column(where, record, parts[-1])
        found = [record.get(name) or "" for name in parts]
        for name, text in zip(parts, found, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{where}: {name!r} is {text!r}, not a text")
        texts[id] = sanitize(" ".join(found)).strip()
        if not texts[id]:
            raise UserError(
                f"{where}: {' and '.join(map(repr, parts))} {'is' if len(parts) == 1 else 'are'} empty"
            )
    if not texts:
        raise UserError(f"{file} is empty")
    return texts


def _known(where: str, record: dict[str, Any], name: str, among: dict[str, str], file: str) -> str:
    id = columns.identifier(where, name, columns.column(where, record, name))
    if id not in among:
        raise UserError(f"{where}: the {name} {id!r} is not in {file}")
    return id
