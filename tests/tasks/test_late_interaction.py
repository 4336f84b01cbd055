"""Late interaction: rows with what counts of them, and the loss of a batch however it is cut."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import LateInteractionConfig
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import late_interaction
from bert_jax.tasks.groups import Texts
from bert_jax.training.network import Network, modules, parameters
from data_pipeline.batch import unpack
from data_pipeline.errors import UserError
from tests.helpers.examples import features_of, pieces, tokenizer_of, write
from tests.tasks.test_embedding import EXAMPLES, MODEL, assert_alike, gradient, texts_of

SETTINGS = LateInteractionConfig(sequence_length=12, query_length=8, dimensions=8, temperature=0.5)


# Examples


def test_pairs_and_any_number_of_negatives(tmp_path: Any):
    rows = [{"query": "a", "document": "b", "negative": ["c", "d"]}, {"query": "e", "document": "f"}]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    named = dataclasses.replace(SETTINGS, anchor="query", positive="document")
    assert texts_of(late_interaction.read(path, named)) == [("a", "b", "c", "d"), ("e", "f")]
    assert texts_of(late_interaction.read(path, named, labelled=False)) == [("a", "b"), ("e", "f")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"anchor": "a"}, r"line 1 has no column 'positive'; .* --task\.positive"),
        ({"anchor": " ", "positive": "b"}, "line 1: 'anchor' is empty"),
        ({"anchor": "a", "positive": "b", "negative": 3}, "line 1: 'negative' is 3, not a text"),
    ],
)
def test_what_is_no_example_is_named(row: dict[str, Any], message: str, tmp_path: Any):
    path = write(tmp_path, "a.jsonl", json.dumps(row))
    with pytest.raises(UserError, match=message):
        late_interaction.read(path, SETTINGS)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dimensions", 0, r"task\.dimensions is 0; it must be at least 1"),
        ("query_length", 7, r"task\.query_length is 7; it must be at least 8"),
        ("temperature", 0.0, r"task\.temperature is 0\.0; it must be positive"),
    ],
)
def test_settings_that_cannot_be_are_named(field: str, value: Any, message: str):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SETTINGS, **{field: value})


def test_a_query_has_no_more_tokens_than_there_are_positions():
    asked = dataclasses.replace(SETTINGS, query_length=17)
    with pytest.raises(UserError, match=r"task\.query_length is 17, but init\.source has 16 positions"):
        parameters(Network(MODEL, late_interaction, asked))


# Rows


def scored(settings: LateInteractionConfig, *texts: str) -> tuple[list[str], list[str]]:
    """The pieces of a row, and those whose vectors count."""
    features = features_of(settings, [Texts("row 1", texts)])
    found = pieces(features)
    counts = features.arrays["scored"][0]
    assert not counts[len(found) :].any(), "padding does not"
    return found, [piece for piece, is_one in zip(found, counts, strict=False) if is_one]


def test_prompts_are_texts_or_pieces_and_both_have_room_in_the_length():
    asked = dataclasses.replace(SETTINGS, query_prompt="[unused0]", document_prompt="so: ")
    found, _ = scored(asked, "a " * 9, "b " * 3, "c " * 12)
    assert found == [
        *("[CLS]", "[unused0]", *"aaaaa", "[SEP]"),
        *("[CLS]", "so", ":", *"bbb", "[SEP]"),
        *("[CLS]", "so", ":", *"cccccccc", "[SEP]"),
    ]
    word, _ = scored(dataclasses.replace(SETTINGS, query_prompt="query"), "a", "b")
    assert word[:3] == ["[CLS]", "query", "##a"], "a word is a text, though it is a piece too"


def test_punctuation_of_documents_does_not_count():
    _, counts = scored(SETTINGS, "a, b?", "c, d.", "e (f)")
    assert counts == [*("[CLS]", *"a,b?", "[SEP]"), *("[CLS]", *"cd", "[SEP]"), *("[CLS]", *"ef", "[SEP]")]
    _, counts = scored(dataclasses.replace(SETTINGS, skip_punctuation=False), "a", "c, d.")
    assert counts[3:] == ["[CLS]", *"c,d.", "[SEP]"]


def test_a_query_is_filled_with_masks_that_count():
    asked = dataclasses.replace(SETTINGS, query_expansion=True)
    found, counts = scored(asked, "a b", "c")
    assert found == [*("[CLS]", "a", "b", "[SEP]"), *["[MASK]"] * 4, *("[CLS]", "c", "[SEP]")]
    assert counts == found


def test_what_is_cut_is_named():
    features = features_of(
        SETTINGS,
        [
            Texts("row 1", ("a " * 6, "b " * 10)),
            Texts("row 2", ("a " * 7, "b")),
            Texts("row 3", ("a", "b " * 11)),
        ],
    )
    assert features.cut == ["row 2", "row 3"]


# The loss of a batch


@pytest.mark.long
def test_the_loss_is_that_of_the_definition():
    """InfoNCE of MaxSim, a text once: from the vectors of each text in a row of its own, in float64."""
    examples = [
        Texts("", ("one two", "three.", "four five six")),
        Texts("", ("seven", "eight nine")),
        Texts(
            "", ("ten", "three.", "one two")
        ),  # the first one's positive is no negative, nor its own anchor
    ]
    network = Network(MODEL, late_interaction, SETTINGS)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, 0.2, p.shape).astype(np.float32), parameters(network))

    @jax.jit
    def logits(batch: dict[str, jax.Array]) -> jax.Array:
        both = modules(network, jax.tree.map(jnp.asarray, params))
        return late_interaction.logits(SETTINGS, both.objective, both.encoder, batch, kernels=PLAIN)

    def run(examples: list[Texts]) -> tuple[dict[str, jax.Array], jax.Array]:
        batch = unpack({k: jnp.asarray(v) for k, v in features_of(SETTINGS, examples).arrays.items()})
        return batch, logits(batch)

    def vectors(text: str, place: int) -> np.ndarray:
        texts = (text, "a") if place == 0 else ("a", text)
        batch, found = run([Texts("", texts)])
        own = np.asarray(batch["scored"] & (batch["segment_ids"] == place + 1))
        return np.asarray(found, np.float64)[own]

    losses = []
    for anchor, positive, *_ in (example.texts for example in examples):
        query = vectors(anchor, 0)

        def score(text: str, query: np.ndarray = query) -> float:
            return (query @ vectors(text, 1).T).max(axis=1).sum() / 0.5

        others = {text for e in examples for text in e.texts[1:]} - {anchor, positive}
        values = [score(text) for text in [positive, *others]]
        losses.append(math.log(sum(map(math.exp, values))) - values[0])
    batch, found = run(examples)
    loss, weight = late_interaction.loss_sums(SETTINGS, found, batch)["loss"]
    assert float(weight) == 3
    assert float(loss) == pytest.approx(sum(losses), rel=1e-5)


@pytest.mark.long
def test_a_batch_gives_the_same_gradient_however_it_is_cut():
    """Into microbatches and over devices: all texts are compared, and dropout is the same."""
    arrays = features_of(SETTINGS, EXAMPLES["contrastive"]).arrays
    value, expected = gradient(SETTINGS, (1, 1, 1), arrays=arrays, microbatches=1, dropout=True)
    again, found = gradient(SETTINGS, (2, 2, 2), arrays=arrays, microbatches=2, dropout=True)
    assert again == pytest.approx(value, rel=1e-5)
    assert_alike(found, expected)


# Ranks


def test_a_positive_is_looked_for_among_the_texts_of_so_many_examples(monkeypatch: pytest.MonkeyPatch):
    """The vectors of a text are its number: the second anchor is like the third one's positive."""
    examples = [Texts("", (f"a{i}", f"b{i}", f"c{i}")) for i in range(4)]
    features = features_of(SETTINGS, examples)
    segment_ids = unpack(features.arrays)["segment_ids"]
    of_texts = np.array([[0, 0, 9], [2, 1, 9], [2, 2, 9], [3, 3, 9]])
    logits = np.eye(10, dtype=np.float32)[
        np.take_along_axis(of_texts, np.maximum(segment_ids - 1, 0), axis=1)
    ]

    def ranks() -> list[int]:
        said = late_interaction.predict(examples, features, logits, SETTINGS)
        return [prediction["rank"] for prediction in said]

    assert ranks() == [1, 2, 1, 1]
    monkeypatch.setattr(late_interaction, "RANKED", 2)
    assert ranks() == [1, 1, 1, 1]


def test_a_pair_without_a_label_has_a_score():
    examples = late_interaction.read_stdin([b'{"anchor": "a", "positive": "b"}'], SETTINGS)
    features = late_interaction.featurize(list(examples), tokenizer_of("minilm"), SETTINGS)
    logits = np.ones((1, features.arrays["token_ids"].shape[1], 1), np.float32)
    said = late_interaction.predict([Texts("", ("a", "b"))], features, logits, SETTINGS)
    assert said == [{"score": 3.0}], "one for each of [CLS], a and [SEP]"
