"""Embeddings: texts that go together in one row, and the loss of a batch however it is cut."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import BertConfig, EmbeddingConfig, TaskConfig
from bert_jax.finetuning.balance import Balanced
from bert_jax.finetuning.data import compile_apply
from bert_jax.ops.attention import PLAIN
from bert_jax.parallel import sharding
from bert_jax.tasks import embedding, groups, late_interaction, ranking, task_of
from bert_jax.tasks.groups import Texts
from bert_jax.training.network import Network, modules, parameters, sums
from data_pipeline.batch import unpack
from data_pipeline.errors import UserError
from tests.helpers.examples import features_of, pieces, write
from tests.helpers.steps import mesh_of

CONTRASTIVE = EmbeddingConfig(sequence_length=16)
COSENT = EmbeddingConfig(sequence_length=16, loss="cosent")
MARGINS = EmbeddingConfig(sequence_length=16, loss="margin_mse")


# Examples


def texts_of(found: list[Any]) -> list[tuple[str, ...]]:
    return [example.texts for example in found]


def test_pairs_triples_and_any_number_of_negatives(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "anchor\tpositive\na\tb\nc\td\n")
    assert texts_of(embedding.read(path, CONTRASTIVE)) == [("a", "b"), ("c", "d")]
    path = write(tmp_path, "a.csv", "anchor,positive,negative_1,negative_2\na,b,c,d\ne,f,g,\n")
    assert texts_of(embedding.read(path, CONTRASTIVE)) == [("a", "b", "c", "d"), ("e", "f", "g")]
    rows = [
        {"query": "a", "document": "b", "hard": ["c", "d"]},
        {"query": "e", "document": "f", "hard": None},
    ]
    path = write(tmp_path, "a.jsonl.gz", "\n".join(map(json.dumps, rows)))
    named = dataclasses.replace(CONTRASTIVE, anchor="query", positive="document", negative="hard")
    assert texts_of(embedding.read(path, named)) == [("a", "b", "c", "d"), ("e", "f")]


def test_a_plain_text_is_its_own_positive(tmp_path: Path):
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    assert texts_of(embedding.read(path, CONTRASTIVE)) == [("one", "one"), ("two", "two")]


def test_scores_of_two_texts_and_of_a_teacher(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "anchor\tpositive\tscore\na\tb\t0.5\n")
    assert embedding.read(path, COSENT)[0].scores == (0.5,)
    rows = [
        {"anchor": "a", "positive": "b", "negative": ["c", "d"], "score": [3.0, 1.0, 0.5]},
        {"anchor": "a", "positive": "b", "negative": ["c", "d"], "score": [2.0, 2.5]},
        {"anchor": "a", "positive": "b", "negative": "c", "score": 2},
    ]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [example.scores for example in embedding.read(path, MARGINS)] == [(2.0, 2.5), (2.0, 2.5), (2.0,)]


@pytest.mark.parametrize(
    ("settings", "row", "message"),
    [
        (CONTRASTIVE, {"anchor": "a"}, r"line 1 has no column 'positive'; .* --task\.positive"),
        (CONTRASTIVE, {"anchor": "a", "positive": " "}, "line 1: 'positive' is empty"),
        (CONTRASTIVE, {"anchor": "a", "positive": "\u200b\u00ad"}, "line 1: 'positive' is empty"),  # no width
        (CONTRASTIVE, {"anchor": "a", "positive": "b", "negative": [""]}, "line 1: 'negative' is empty"),
        (CONTRASTIVE, {"anchor": "a", "positive": "b", "negative": 3}, "line 1: 'negative' is 3, not a text"),
        (COSENT, {"anchor": "a", "positive": "b"}, r"line 1 has no column 'score'"),
        (
            MARGINS,
            {"anchor": "a", "positive": "b", "score": 1},
            r"line 1 has no negative, .* --task\.negative",
        ),
        (
            MARGINS,
            {"anchor": "a", "positive": "b", "negative": ["c", "d"], "score": [1]},
            "line 1: 'score' has 1 numbers for a positive and 2 negatives; it must have 3 scores",
        ),
    ],
)
def test_what_is_no_example_is_named(
    settings: EmbeddingConfig, row: dict[str, Any], message: str, tmp_path: Path
):
    path = write(tmp_path, "a.jsonl", json.dumps(row))
    with pytest.raises(UserError, match=message):
        embedding.read(path, settings)


def test_texts_of_an_example_are_the_sequences_of_a_row():
    settings = dataclasses.replace(CONTRASTIVE, query_prompt="query: ", sequence_length=8)
    features = features_of(settings, [Texts("row 1", ("a", "b " * 9, "c")), Texts("row 2", ("d", "e"))])
    assert pieces(features) == [
        *("[CLS]", "query", ":", "a", "[SEP]"),
        *("[CLS]", "b", "b", "b", "b", "b", "b", "[SEP]"),
        *("[CLS]", "c", "[SEP]"),
    ]
    assert features.arrays["segment_lengths"].tolist() == [
        [[5, 0], [8, 0], [3, 0]],
        [[5, 0], [3, 0], [0, 0]],
    ]
    assert features.cut == ["row 1"]
    assert features.arrays["labels"].tolist() == [[0, 1, 2], [3, 4, groups.NO_TEXT]]


@pytest.mark.parametrize(
    "examples",
    [
        [("a", "b")],
        [("a", "b"), ("a", "b"), ("b", "a")],
        [("a", "b"), ("a", "c", "a")],
        [("a", "a"), ("a", "a")],
    ],
)
@pytest.mark.parametrize("task", [embedding, late_interaction])
def test_where_nothing_is_a_negative_nothing_is_learned(examples: list[tuple[str, ...]], task: Any):
    settings = task.Config(train="a.jsonl")
    found = [Texts("", texts) for texts in examples]
    with pytest.raises(UserError, match=r"^a\.jsonl has nothing to compare: .* more examples, or negatives$"):
        task.with_labels(settings, found)
    assert task.with_labels(settings, [*found, Texts("", ("c", "d"))]) == settings


# The loss of a batch

MODEL = BertConfig(
    vocab_size=239 * 128,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.0,
)
EXAMPLES = {
    "contrastive": [Texts("", (f"text {i}", f"other {i // 2}", f"more {i}")[: 2 + i % 2]) for i in range(16)],
    "cosent": [Texts("", (f"text {i}", f"other {i}"), (float(i % 5),)) for i in range(16)],
    "margin_mse": [Texts("", (f"text {i}", f"b {i}", f"c {i}"), (i / 10,)) for i in range(16)],
}


def gradient(
    settings: TaskConfig,
    mesh: tuple[int, int, int],
    *,
    arrays: dict[str, np.ndarray],
    microbatches: int,
    dropout: bool,
) -> tuple[float, Any]:
    """Loss and gradient of 16 examples."""
    network = Network(MODEL, task_of(settings), settings)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, 0.2, p.shape).astype(np.float32), parameters(network))
    built = mesh_of(mesh)
    with jax.set_mesh(built):
        batch = sharding.global_batch(arrays, built, batch_size=16)

        @jax.jit
        def apply(params: Any, batch: Any) -> Any:
            def loss(params: Any) -> jax.Array:
                keys = jax.random.split(jax.random.key(1), 16) if dropout else None
                found = sums(
                    network,
                    params,
                    unpack(batch),
                    kernels=PLAIN,
                    dropout_keys=keys,
                    microbatches=microbatches,
                )
                return found["loss"][0] / found["loss"][1]

            return jax.value_and_grad(loss)(params)

        value, grads = apply(params, batch)
    return float(value), jax.tree.map(np.asarray, grads)


def assert_alike(found: Any, expected: Any) -> None:
    """Two gradients, to 2e-5 of the largest number."""
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert scale > 1e-3
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5 * scale, rtol=0),
        found,
        expected,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "loss",
    ["contrastive", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cosent", "margin_mse"))],
)
def test_a_batch_gives_the_same_gradient_however_it_is_cut(loss: Any):
    """Into microbatches, over devices, or both: all texts are compared, and dropout is the same."""
    settings = EmbeddingConfig(sequence_length=16, loss=loss, dimensions=(4,))
    arrays = features_of(settings, EXAMPLES[loss]).arrays
    value, expected = gradient(settings, (1, 1, 1), arrays=arrays, microbatches=1, dropout=True)
    cuts = [((1, 1, 1), 4), ((2, 2, 2), 2)] if loss == "contrastive" else [((1, 1, 1), 4)]
    for mesh, microbatches in cuts:
        again, found = gradient(settings, mesh, arrays=arrays, microbatches=microbatches, dropout=True)
        assert again == pytest.approx(value, rel=1e-5)
        assert_alike(found, expected)


@pytest.mark.long
@pytest.mark.parametrize(("mesh", "microbatches"), [((1, 1, 1), 1), ((2, 2, 2), 2)])
def test_the_gradient_is_the_same_wherever_texts_lie(mesh: tuple[int, int, int], microbatches: int):
    """Dealt out to the rows of the batch anew, as a fine-tuning does."""
    settings = EmbeddingConfig(sequence_length=16)
    # Example 15 has three texts, and the longest ones: its row gets shorter.
    examples = [
        Texts(one.where, tuple(f"{text} {'word ' * (i // 3)}" for text in one.texts))
        for i, one in enumerate(EXAMPLES["contrastive"])
    ]
    features = features_of(settings, examples)
    assert features.texts_may_move
    value, expected = gradient(settings, (1, 1, 1), arrays=features.arrays, microbatches=1, dropout=False)
    layout = Balanced(features.arrays, columns=48, batches=1, batch_size=16, seed=0)
    moved = layout.batch(np.arange(16), range(16))
    assert (moved["text_places"] != np.arange(48).reshape(16, 3)).any()
    again, found = gradient(settings, mesh, arrays=moved, microbatches=microbatches, dropout=False)
    assert again == pytest.approx(value, rel=1e-5)
    assert_alike(found, expected)


def test_an_evaluation_in_microbatches_is_of_the_same_whole_batch():
    settings = EmbeddingConfig(sequence_length=16)
    network, batch = (
        Network(MODEL, embedding, settings),
        features_of(settings, EXAMPLES["contrastive"]).arrays,
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, 0.2, p.shape).astype(np.float32), parameters(network))
    mesh = mesh_of((1, 1, 1))
    (one, whole), (other, parts) = (
        compile_apply(network, PLAIN, mesh, microbatches=count)(params, batch) for count in (1, 4)
    )
    np.testing.assert_allclose(other, one, atol=2e-6)
    assert float(parts["loss"][0]) == pytest.approx(float(whole["loss"][0]), rel=1e-5)
    assert float(whole["loss"][0]) > 16 * 0.1


@pytest.mark.long
def test_texts_of_a_row_do_not_see_each_other():
    """A vector is the same in a row of its own."""
    network = Network(MODEL, embedding, CONTRASTIVE)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, 0.2, p.shape).astype(np.float32), parameters(network))

    def vectors(examples: list[Texts]) -> np.ndarray:
        batch = unpack({k: jnp.asarray(v) for k, v in features_of(CONTRASTIVE, examples).arrays.items()})
        both = modules(network, params)
        found = embedding.logits(CONTRASTIVE, both.objective, both.encoder, batch, kernels=PLAIN)
        return np.asarray(found).reshape(-1, MODEL.hidden_size)

    texts = ("a text", "another one that is longer", "and this")
    together, alone = vectors([Texts("", texts)]), vectors([Texts("", (text,)) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)


# Ranks


def test_a_rank_counts_each_other_text_once():
    anchors = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    texts = np.array([[0.6, 0.8], [1.0, 0.1], [1.0, 0.1], [0.1, 1.0], [1.0, 0.0]], np.float32)
    found = ranking.ranks(
        ranking.cosines(anchors, texts),
        anchors=["a", "b"],
        texts=["one", "near", "near", "two", "a"],
        positives=["one", "two"],
    )
    assert found.tolist() == [2, 1], "of a, itself does not count, and the text that is nearer only once"


def test_another_positive_of_the_same_anchor_is_no_mistake():
    vectors = np.array([[1.0, 0.0], [0.9, 0.1]], np.float32)
    found = ranking.ranks(
        ranking.cosines(vectors[[0, 0]], vectors),
        anchors=["a", "a"],
        texts=["x", "y"],
        positives=["x", "y"],
    )
    assert found.tolist() == [1, 1]
