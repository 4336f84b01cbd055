"""What every task does, from a file of a few examples to scores, an explanation and Hugging Face."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import (
    BertConfig,
    ClassificationConfig,
    EmbeddingConfig,
    LateInteractionConfig,
    MultiLabelConfig,
    QuestionAnsweringConfig,
    RegressionConfig,
    RerankingConfig,
    TaskConfig,
    TokenClassificationConfig,
)
from bert_jax.interop import huggingface
from bert_jax.objectives.objective import RowShape, Sums
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import TASKS, task_of
from bert_jax.tasks.groups import Texts
from bert_jax.tasks.task import Task
from bert_jax.tasks.token_classification import TokenLabels
from bert_jax.training.network import Network, modules, parameters, sums
from data_pipeline.batch import unpack
from data_pipeline.tokenizer import SPECIAL_PIECES
from tests.helpers.examples import (
    KINDS,
    features_of,
    pieces,
    question,
    round_trip,
    squad,
    text,
    tokenizer_of,
    write,
)

MODEL = BertConfig(
    vocab_size=239 * 128,  # nothing is padded
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
)
"""It has a row for each piece of MiniLM's vocabulary."""


class Case(NamedTuple):
    """Two or three examples of a task, also as a file, and predictions of them that are wrong."""

    file: tuple[str, str]
    """Name and content."""
    line: str
    """Of standard input: one of the examples."""
    typed: tuple[str, str | None]
    """The same, to be explained."""
    settings: TaskConfig
    """With the labels of the examples."""
    examples: list[Any]
    wrong: list[dict[str, Any]]


CASES = {
    "classification": Case(
        ("a.tsv", "sentence\tlabel\na\tx\nb\ty\nc\tx\n"),
        "a",
        ("a", None),
        ClassificationConfig(labels=("x", "y"), sequence_length=32),
        [text("a", label="x"), text("b", label="y"), text("c", label="x")],
        [{"label": "x"}, {"label": "x"}, {"label": "x"}],
    ),
    "multi_label": Case(
        ("a.tsv", "sentence\tlabels\na\tx,y\nb\t\nc\tx\n"),
        "a",
        ("a", None),
        MultiLabelConfig(labels=("x", "y"), sequence_length=32),
        [text("a", label=("x", "y")), text("b", label=()), text("c", label=("x",))],
        [{"labels": ["x"]}, {"labels": []}, {"labels": ["y"]}],
    ),
    "regression": Case(
        ("a.csv", "sentence,label\na,0.5\nb,3.0\nc,1\n"),
        "a",
        ("a", None),
        RegressionConfig(sequence_length=32),
        [text("a", label=0.5), text("b", label=3.0), text("c", label=1.0)],
        [{"score": 3.0}, {"score": 2.5}, {"score": 1.0}],
    ),
    "token_classification": Case(
        ("a.conll", "a B-x\nb I-x\nc O\n\nd B-y\n"),
        "a b c",
        ("a b c", None),
        TokenClassificationConfig(labels=("B-x", "B-y", "I-x", "O"), sequence_length=32),
        [TokenLabels("", ("a", "b", "c"), ("B-x", "I-x", "O")), TokenLabels("", ("d",), ("B-y",))],
        [{"labels": ["B-x", "O", "O"]}, {"labels": ["B-y"]}],
    ),
    "question_answering": Case(
        (
            "a.json",
            squad(
                {"id": "1", "question": "who?", "answers": [{"text": "Ada", "answer_start": 0}]},
                {"id": "2", "question": "why?", "answers": []},
                context="Ada was there",
            ),
        ),
        '{"question": "who?", "context": "Ada was there"}',
        ("who?", "Ada was there"),
        QuestionAnsweringConfig(sequence_length=32, stride=4),
        [question("Ada was there", "Ada"), question("nobody was there")],
        [{"answer": "Ada was"}, {"answer": "nobody"}],
    ),
    "reranking": Case(
        (
            "a.jsonl",
            '{"anchor": "a", "positive": "b", "negative": ["c", "d"]}\n'
            '{"anchor": "e", "positive": "f", "negative": "g"}\n',
        ),
        '{"anchor": "a", "positive": "b"}',
        ("a", "b"),
        RerankingConfig(sequence_length=16),
        [Texts("", ("a", "b", "c", "d")), Texts("", ("e", "f", "g"))],
        [{"scores": [0.5, 0.6, 0.1]}, {"scores": [0.5, 0.5]}],
    ),
    "embedding": Case(
        (
            "a.jsonl",
            '{"anchor": "a", "positive": "b", "negative": ["c", "d"]}\n{"anchor": "e", "positive": "f"}\n',
        ),
        "a",
        ("a", "b"),
        EmbeddingConfig(sequence_length=8),
        [Texts("", ("a", "b", "c", "d")), Texts("", ("e", "f"))],
        [{"embeddings": [[1, 0], [0, 1], [1, 0], [1, 1]]}, {"embeddings": [[1, 1], [1, 1]]}],
    ),
    "late_interaction": Case(
        (
            "a.jsonl",
            '{"anchor": "a", "positive": "b", "negative": ["c", "d"]}\n{"anchor": "e", "positive": "f"}\n',
        ),
        '{"anchor": "a", "positive": "b"}',
        ("a", "b"),
        LateInteractionConfig(sequence_length=8, query_length=8, dimensions=4),
        [Texts("", ("a", "b", "c", "d")), Texts("", ("e", "f"))],
        [{"scores": [1.0, 2.0, 0.5], "rank": 2}, {"scores": [1.0], "rank": 1}],
    ),
}

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.Config.kind)


def case_of(task: Task) -> Case:
    return CASES[task.Config.kind]


@pytest.mark.long
@each_task
def test_a_task_goes_from_a_file_to_scores_an_explanation_and_hugging_face(task: Task, tmp_path: Path):
    case = case_of(task)
    unlabelled = dataclasses.replace(
        case.settings, **({"labels": ()} if hasattr(case.settings, "labels") else {})
    )
    path = write(tmp_path, *case.file)

    # Examples and their rows.
    examples = task.read(path, unlabelled)
    assert all(example.where.startswith(path) for example in examples)
    settings = task.with_labels(unlabelled, examples)
    assert settings == case.settings
    assert task_of(settings) is task
    features = task.featurize(examples, tokenizer_of("minilm"), settings)
    texts = features.shape.max_sequences
    assert features.shape == RowShape(texts * settings.sequence_length, max_sequences=texts)
    assert {"labels", "weights"} <= features.arrays.keys()
    assert features.examples_N.tolist() == list(range(len(examples)))
    assert features.cut == []

    # Logits and losses.
    network = Network(MODEL, task, settings)
    assert task.refuses(settings, network.encoder, None) is None
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype(np.float32), parameters(network))
    batch = {name: jnp.asarray(array) for name, array in unpack(features.arrays).items()}

    @jax.jit
    def apply(params: dict[str, Any], batch: dict[str, jax.Array]) -> tuple[jax.Array, Sums, Sums]:
        both = modules(network, params)
        logits = task.logits(settings, both.objective, both.encoder, batch, kernels=PLAIN)
        return (
            logits,
            task.loss_sums(network.settings, logits, batch),
            sums(network, params, batch, kernels=PLAIN),
        )

    logits, found, at_once = apply(params, batch)
    assert logits.dtype == jnp.float32
    assert len(logits) == len(features.examples_N)
    assert all(np.isfinite(value) for pair in found.values() for value in pair)
    assert found["loss"][0] > 0
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, at_once)
    weights = task.weights(batch)
    assert weights == {name: found[name][1] for name in weights}, "what is minimized is what is reported"
    assert task.flops(settings, MODEL, features.shape) >= 0
    assert task.kept_bytes(settings, MODEL, features.shape) >= 0

    # Predictions and scores.
    task.check_libraries()
    said = task.predict(examples, features, np.asarray(logits), settings)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert len(said) == len(examples)
    scores = task.score(examples, said, settings)
    assert scores.keys() == {metric.name for metric in task.metrics(settings)}
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())

    # To predict, without labels: from the same file, and a line of standard input.
    to_predict = task.read(path, settings, labelled=False)
    (line,) = task.read_stdin([case.line.encode()], settings)
    plain = task.featurize(to_predict, tokenizer_of("minilm"), settings)
    assert not {"labels", "weights"} & plain.arrays.keys()
    if texts == 1:
        np.testing.assert_array_equal(plain.arrays["token_ids"], features.arrays["token_ids"])
        assert task.predict(to_predict, plain, np.asarray(logits), settings) == said
    from_line = task.featurize([line], tokenizer_of("minilm"), settings)
    np.testing.assert_array_equal(from_line.arrays["token_ids"][0], plain.arrays["token_ids"][0])

    # An explanation.
    typed = task.example(*case.typed, settings)
    row = task.featurize([typed], tokenizer_of("minilm"), settings)
    if texts == 1:
        np.testing.assert_array_equal(row.arrays["token_ids"], from_line.arrays["token_ids"])
    target = task.explain(typed, row, np.asarray(logits[:1]), settings, None)
    assert target.prediction
    assert target.name
    assert np.isfinite(target.value(logits[:1])).all()
    assert np.shape(target.value(logits[:1])) == ()
    with pytest.raises(ValueError, match="there is no label 'nosuchlabel'"):
        task.explain(typed, row, np.asarray(logits[:1]), settings, "nosuchlabel")

    # Hugging Face: one task takes what this one wrote, and finds the same labels and parameters.
    fields = json.loads(json.dumps(huggingface.to_config(network)))
    assert task.to_huggingface(settings).items() <= fields.items()
    claims = [found for found in TASKS if found.from_huggingface(task.HUGGINGFACE_SUFFIX, fields)]
    if task.HUGGINGFACE_SUFFIX == "Model":  # no head: what it is for stands in files of its own
        assert claims == []
        return
    assert claims == [task]
    again = task.from_huggingface(task.HUGGINGFACE_SUFFIX, fields)
    assert getattr(again, "labels", None) == getattr(settings, "labels", None)
    loaded = huggingface.from_config(fields)
    assert (loaded.model, loaded.objective, loaded.settings) == (MODEL, task, again)
    tensors = huggingface.to_tensors(network, params)
    jax.tree.map(np.testing.assert_array_equal, huggingface.from_tensors(loaded, tensors), params)


@each_task
def test_perfect_predictions_score_one_and_wrong_ones_less(task: Task):
    case, metrics = case_of(task), task.metrics(case_of(task).settings)
    scores = task.score(case.examples, round_trip(case.settings, case.examples), case.settings)
    assert scores == pytest.approx({m.name: 1.0 if m.higher_is_better else 0.0 for m in metrics})
    assert all(type(value) is float for value in scores.values())
    wrong = task.score(case.examples, case.wrong, case.settings)
    assert wrong[metrics[0].name] < 1
    assert wrong.keys() == scores.keys()


@each_task
def test_the_config_of_a_task_is_its_own(task: Task):
    """And the first metric, by which checkpoints are compared unless another is asked for, is a good one."""
    assert [found for found in TASKS if found.Config.kind == task.Config.kind] == [task]
    assert set(task.Config.noted) <= {field.name for field in dataclasses.fields(task.Config)}
    assert task.metrics(case_of(task).settings)[0].higher_is_better
    assert (task.INPUT_FORMATS, task.PREDICTS_TOKENS) == ((), False)


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("classification", "sklearn"),
        ("multi_label", "sklearn"),
        ("regression", "scipy"),
        ("token_classification", "seqeval"),
    ],
)
def test_what_is_missing_is_named(kind: str, module: str, monkeypatch: pytest.MonkeyPatch):
    case = CASES[kind]
    task = task_of(case.settings)
    said = round_trip(case.settings, case.examples)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'bert-jax\[finetune\]' \(no module '{module}'\)"):
        task.score(case.examples, said, case.settings)
    with pytest.raises(ValueError, match=r"pip install 'bert-jax\[finetune\]'"):
        task.check_libraries()


@pytest.mark.parametrize("kind", KINDS)
@each_task
def test_special_pieces_of_a_text_are_plain_text(task: Task, kind: str):
    awkward = "a [SEP] b[CLS][MASK] [PAD] [UNK] <s> [sep]"
    examples: dict[str, Any] = {
        "token_classification": TokenLabels("row 1", tuple(awkward.split())),
        "question_answering": question(awkward, question=""),
        "embedding": Texts("row 1", (awkward,)),
        "reranking": Texts("row 1", (awkward, awkward)),
        "late_interaction": Texts("row 1", ("", awkward)),
    }
    asked = dataclasses.replace(case_of(task).settings, sequence_length=64)
    features = features_of(asked, [examples.get(asked.kind, text(awkward))], kind=kind)
    found = pieces(features, kind=kind)
    expected = ["[CLS]", *["[SEP]"] * (2 if asked.kind in ("question_answering", "reranking") else 1)]
    if asked.kind == "late_interaction":
        expected *= 2
    assert [piece for piece in found if piece in SPECIAL_PIECES and piece != "[UNK]"] == expected


def test_every_task_has_its_case():
    assert CASES.keys() == {task.Config.kind for task in TASKS}
