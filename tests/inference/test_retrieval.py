"""Retrieval: what is found is exact, and the numbers are those of Sentence Transformers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from bert_jax.config import Config, EmbeddingConfig
from bert_jax.inference import retrieval, search
from bert_jax.inference.retrieval_metrics import metrics
from bert_jax.inference.search import Search
from data_pipeline.errors import UserError
from tests.helpers.embeddings import LONGEST, TEXTS, write_folder

SETTINGS = EmbeddingConfig(sequence_length=LONGEST, query_prompt="query: ", document_prompt="passage: ")

# Search


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize(("queries", "documents", "k"), [(5, 3, 10), (37, 300, 10), (37, 300, 300)])
def test_what_is_found_is_what_sorting_finds(
    queries: int, documents: int, k: int, similarity: Any, monkeypatch: pytest.MonkeyPatch
):
    """A block at a time, of both."""
    monkeypatch.setattr(search, "QUERIES", 16)
    monkeypatch.setattr(search, "CORPUS", 64)
    random = np.random.default_rng(0)
    query_NxD, corpus_NxD = (random.normal(size=(n, 8)).astype(np.float32) for n in (queries, documents))
    found = Search(query_NxD, k=k, similarity=similarity)
    for first in range(0, documents, 100):
        found.add(corpus_NxD[first : first + 100])
    scores, numbers = found.found()
    expected = query_NxD.astype(np.float64) @ corpus_NxD.T.astype(np.float64)
    if similarity == "cosine":
        expected /= np.linalg.norm(query_NxD, axis=1)[:, None] * np.linalg.norm(corpus_NxD, axis=1)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, numbers, axis=1), atol=1e-6)
    assert all(len({*row}) == min(k, documents) for row in numbers.tolist())


def test_of_equal_scores_the_first_is_found_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "CORPUS", 4)
    found = Search(np.ones((1, 2), np.float32), k=6, similarity="dot")
    found.add(np.array([[0, 1], [1, 1], [0, 1], [1, 1], [1, 1], [1, 0], [1, 1]], np.float32))
    assert found.found()[1].tolist() == [[1, 3, 4, 6, 0, 2]]


# Metrics


def theirs(queries_NxD: np.ndarray, corpus_NxD: np.ndarray, relevant: list[list[int]]) -> dict[str, float]:
    """Of Sentence Transformers, for vectors that it is given."""
    import torch
    from sentence_transformers import util
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    def name(number: int) -> str:
        return f"{number:04d}"  # in the order of the numbers

    evaluate = InformationRetrievalEvaluator(
        queries={name(q): str(q) for q in range(len(queries_NxD))},
        corpus={name(d): str(d) for d in range(len(corpus_NxD))},
        relevant_docs={name(q): {*map(name, wanted)} for q, wanted in enumerate(relevant)},
        precision_recall_at_k=[1, 10, 100],
        corpus_chunk_size=64,
        score_functions={"dot": util.dot_score},
        write_csv=False,
    )

    class Given:
        similarity_fn_name = "dot"

        def encode_query(self, texts: list[str], **_: Any) -> torch.Tensor:
            return torch.tensor(queries_NxD[[*map(int, texts)]])

    found = evaluate.compute_all_metrics(Given(), corpus_embeddings=torch.tensor(corpus_NxD))["dot"]
    return {
        "ndcg@10": found["ndcg@k"][10],
        "mrr@10": found["mrr@k"][10],
        "map@100": found["map@k"][100],
        **{f"recall@{k}": found["recall@k"][k] for k in (1, 10, 100)},
    }


@pytest.mark.parametrize("ties", [False, True], ids=["different scores", "many equal scores"])
def test_the_numbers_are_those_of_sentence_transformers(ties: bool, monkeypatch: pytest.MonkeyPatch):
    """Some queries find nothing that is relevant, some have more relevant documents than are looked at."""
    monkeypatch.setattr(search, "CORPUS", 64)
    random = np.random.default_rng(1)
    queries_NxD, corpus_NxD = (random.normal(size=(n, 16)).astype(np.float32) for n in (50, 333))
    if ties:  # whole numbers, whose products are exact
        queries_NxD, corpus_NxD = queries_NxD.round(), corpus_NxD.round()
    counts = [1, 2, 5, 12, 150] * 10
    relevant = [random.choice(333, count, replace=False).tolist() for count in counts]
    scores = queries_NxD @ corpus_NxD.T
    for q in range(0, 50, 10):
        relevant[q] = [int(scores[q].argmin())]
    found = Search(queries_NxD, k=100, similarity="dot")
    found.add(corpus_NxD)
    values = metrics(found.found()[1].tolist(), [dict.fromkeys(wanted, 1.0) for wanted in relevant])
    assert values == pytest.approx(theirs(queries_NxD, corpus_NxD, relevant), abs=1e-9)
    assert 0 < values["recall@1"] < values["recall@100"] < 1


def test_ndcg_tells_documents_that_are_more_relevant():
    """As trec_eval and scikit-learn have it."""
    random = np.random.default_rng(2)
    gains = random.integers(0, 3, size=(4, 30)).astype(float)
    found = [random.permutation(30).tolist() for _ in gains]
    scores = np.empty_like(gains)
    for row, order in zip(scores, found, strict=True):
        row[order] = np.arange(30, 0, -1)
    relevant = [{i: gain for i, gain in enumerate(row) if gain > 0} for row in gains]
    assert metrics(found, relevant)["ndcg@10"] == pytest.approx(ndcg_score(gains, scores, k=10))


# A collection

CORPUS = [{"_id": f"d{i}", "title": "" if i % 2 else "a title", "text": text} for i, text in enumerate(TEXTS)]
QUERIES = [{"_id": f"q{i}", "text": TEXTS[i]} for i in range(5)]
QRELS = [("q0", "d0", 2), ("q0", "d3", 1), ("q1", "d1", 1), ("q2", "d2", 0), ("q4", "d20", 1)]


def lines(objects: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(found) + "\n" for found in objects).encode()


def table(rows: list[tuple[Any, ...]]) -> bytes:
    header = ("query-id", "corpus-id", "score")
    return "".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)).encode()


FILES = {"corpus.jsonl": lines(CORPUS), "queries.jsonl": lines(QUERIES), "qrels/test.tsv": table(QRELS)}


@pytest.fixture
def collection(tmp_path: Path) -> Callable[..., Path]:
    """A folder of files, some of them changed, or left out where they are None."""

    def write(**changed: bytes | None) -> Path:
        folder = tmp_path / "collection"
        (folder / "qrels").mkdir(parents=True)
        for name, content in (FILES | changed).items():
            if content is not None:
                (folder / name).write_bytes(content)
        return folder

    return write


def test_a_collection_is_read(collection: Callable):
    """Queries without a relevant document are left out; documents are sorted by id."""
    found = retrieval.read(collection())
    ids = sorted(document["_id"] for document in CORPUS)
    assert found.documents[ids.index("d0")] == f"a title {TEXTS[0].strip()}"
    assert found.documents[ids.index("d1")] == TEXTS[1].strip()
    assert found.queries == [TEXTS[i].strip() for i in (0, 1, 4)]
    assert found.relevant == [
        {ids.index("d0"): 2.0, ids.index("d3"): 1.0},
        {ids.index("d1"): 1.0},
        {ids.index("d20"): 1.0},
    ]


def test_files_may_be_packed_and_the_judgements_elsewhere(collection: Callable):
    changed = {"corpus.jsonl": None, "corpus.jsonl.gz": gzip.compress(FILES["corpus.jsonl"])}
    changed |= {"qrels/test.tsv": None, "qrels.tsv": FILES["qrels/test.tsv"]}
    assert len(retrieval.read(collection(**changed)).queries) == 3


def test_a_model_is_evaluated(config: Config, tmp_path: Path, collection: Callable, SentenceTransformer: Any):
    """As Sentence Transformers does it from end to end."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    folder = write_folder(tmp_path / "model", config, SETTINGS)
    judged = [row for row in QRELS if row[2] > 0]
    judged = [(query, document, 1) for query, document, _ in judged]
    found = retrieval.evaluate(folder, files=collection(**{"qrels/test.tsv": table(judged)}))
    evaluate = InformationRetrievalEvaluator(
        queries={query["_id"]: query["text"] for query in QUERIES},
        corpus={each["_id"]: f"{each['title']} {each['text']}".strip() for each in CORPUS},
        relevant_docs={query: {d for q, d, _ in judged if q == query} for query, _, _ in judged},
        precision_recall_at_k=[1, 10, 100],
        write_csv=False,
    )
    expected = evaluate(SentenceTransformer(str(folder)))
    assert found == pytest.approx({name: expected[f"cosine_{name}"] for name in found}, abs=1e-9)
    assert 0 < found["ndcg@10"] < 1


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", None, "has no corpus.jsonl"),
        ("queries.jsonl", None, "has no queries.jsonl"),
        ("qrels/test.tsv", None, "has no qrels/test.tsv or qrels.tsv"),
        ("corpus.jsonl", b"", "corpus.jsonl is empty"),
        ("corpus.jsonl", b"{\n", "corpus.jsonl line 1: not JSON"),
        ("corpus.jsonl", lines([{"text": "a"}]), "corpus.jsonl line 1 has no column '_id'; it has text"),
        ("corpus.jsonl", lines([{"_id": "d0"}]), "corpus.jsonl line 1 has no column 'text'; it has _id"),
        ("corpus.jsonl", lines([{"_id": "d0", "text": 3}]), "line 1: 'text' is 3, not a text"),
        (
            "corpus.jsonl",
            lines([*CORPUS, {"_id": "d", "title": "", "text": " "}]),
            f"corpus.jsonl line {1 + len(CORPUS)}: 'title' and 'text' are empty",
        ),
        (
            "corpus.jsonl",
            lines([*CORPUS, CORPUS[1]]),
            f"corpus.jsonl line {1 + len(CORPUS)}: the _id 'd1' is that of line 2 too",
        ),
        ("queries.jsonl", lines([{"_id": "q0", "text": ""}]), "queries.jsonl line 1: 'text' is empty"),
        (
            "qrels/test.tsv",
            table([("q0", "d0", 1), ("q", "d0", 1)]),
            "row 2: the query-id 'q' is not in queri",
        ),
        ("qrels/test.tsv", table([("q0", "d", 1)]), r"test.tsv row 1: the corpus-id 'd' is not in corpus"),
        ("qrels/test.tsv", table([("q0", "d0", "x")]), "row 1: 'score' is 'x', not a finite number"),
        ("qrels/test.tsv", table([("q0", "d0", 1)] * 2), "row 2: 'd0' was judged for 'q0' before"),
        ("qrels/test.tsv", table([("q0", "d0", 0)]), "judges no document relevant to any query"),
        ("qrels/test.tsv", b"q0 0 d0 1\n", "are rows below a header, query-id corpus-id score"),
        ("qrels/test.tsv", b"q0\td0\t1\nq1\td1\t1\n", "row 1 has no column 'query-id'; it has q0, d0, 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    collection: Callable, file: str, content: bytes | None, message: str
):
    folder = collection(**{file: content})
    with pytest.raises((UserError, FileNotFoundError), match=message) as refused:
        retrieval.read(folder)
    assert "\n" not in str(refused.value)


def test_vectors_that_are_compared_otherwise_are_refused(
    config: Config, tmp_path: Path, collection: Callable
):
    folder = write_folder(tmp_path / "model", config, SETTINGS)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"similarity_fn_name": "manhattan"}))
    with pytest.raises(UserError, match="compares vectors by manhattan; known are cosine and dot"):
        retrieval.evaluate(folder, files=collection())
