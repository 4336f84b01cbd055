"""RoBERTa, XLM-R, CamemBERT, DistilBERT and ELECTRA are those of Transformers: every head, both ways."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

from bert_jax.config import (
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    PostLNConfig,
    RobertaConfig,
    XlmRobertaConfig,
)
from bert_jax.interop import huggingface
from bert_jax.models import encoder_of
from bert_jax.objectives import mlm, mlm_nsp, mlm_sop, rtd
from bert_jax.objectives.objective import Objective
from bert_jax.ops.attention import PLAIN
from bert_jax.tasks import classification, question_answering, token_classification
from bert_jax.training.network import Network, Params, encode, modules
from data_pipeline.errors import UserError
from data_pipeline.special_tokens import SpecialTokens

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TOLERANCE = 2e-5
LABELS = ("negative", "neutral", "positive")
SMALL: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 100,
    "max_position_embeddings": 40,
}
FAMILIES: dict[str, PostLNConfig] = {
    "roberta": RobertaConfig(**SMALL),
    "xlm-roberta": XlmRobertaConfig(**SMALL),
    "camembert": CamembertConfig(**SMALL),
    "distilbert": DistilBertConfig(**SMALL),
    "electra": ElectraConfig(**SMALL, embedding_size=24),
}
VARIANTS: dict[str, PostLNConfig] = {
    "roberta, padding 7, two token types": RobertaConfig(**SMALL, pad_token_id=7, type_vocab_size=2),
    "roberta, another activation": RobertaConfig(**SMALL, hidden_act="relu", layer_norm_eps=1e-6),
    "xlm-roberta, padding 0": XlmRobertaConfig(**SMALL, pad_token_id=0),
    "distilbert, another activation": DistilBertConfig(**SMALL, hidden_act="gelu_new"),
    "electra, embeddings as wide as the rest": ElectraConfig(
        **SMALL, embedding_size=60, type_vocab_size=3, hidden_act="relu"
    ),
}


def network_of(config: PostLNConfig, objective: Objective = mlm) -> Network:
    fields = {field.name for field in dataclasses.fields(objective.Config)}
    return Network(config, objective, objective.Config(**({"labels": LABELS} if "labels" in fields else {})))


CASES = {
    f"{family}, {objective.Config.kind}": network_of(config, objective)
    for family, config in FAMILIES.items()
    for objective in (mlm, classification, token_classification, question_answering)
} | {name: network_of(config) for name, config in VARIANTS.items()}

each = pytest.mark.parametrize("network", CASES.values(), ids=CASES)


def fields_of(network: Network) -> dict[str, Any]:
    """config.json, with a tokenizer's tokens."""
    pad = getattr(network.model, "pad_token_id", 0)
    return huggingface.to_config(network, special_tokens=SpecialTokens(pad=pad))


def class_of(network: Network) -> Any:
    return getattr(transformers, network.huggingface_class)


@functools.cache
def theirs_of(network: Network) -> Any:
    """Their model with weights larger than the usual, so that nothing hides."""
    torch.manual_seed(0)
    kind = class_of(network)
    theirs = kind(kind.config_class(**fields_of(network))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return theirs


def tensors_of(theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def inputs(config: PostLNConfig, *, rows: int = 4) -> dict[str, np.ndarray]:
    """Random tokens in rows of different lengths, up to the longest that there can be."""
    draw = np.random.default_rng(0)
    S, pad = config.longest, getattr(config, "pad_token_id", 0)
    column = np.broadcast_to(np.arange(S, dtype=np.int32), (rows, S))
    length = np.linspace(3, S, rows).astype(int)[:, None]
    inside = column < length
    types = np.where(column < length // 2, 0, max(1, config.token_types) - 1)
    return {
        "token_ids": np.where(inside, draw.integers(8, config.vocab_size, (rows, S)), pad).astype(np.int32),
        "segment_ids": inside.astype(np.int32),
        "position_ids": column,
        "token_type_ids": types.astype(np.int32),
    }


def run_theirs(network: Network, theirs: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    types = (
        {"token_type_ids": torch.tensor(batch["token_type_ids"]).long()} if network.model.token_types else {}
    )
    with torch.no_grad():
        found = theirs(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["segment_ids"]).long(),
            **types,
        )
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1).numpy()
    return found.logits.numpy()


@functools.partial(jax.jit, static_argnums=0)
def run_ours(network: Network, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    both = modules(network, params)
    if network.objective is not mlm:
        return network.objective.logits(network.settings, both.objective, both.encoder, batch, kernels=PLAIN)
    hidden_BxSxD = both.encoder.encode(batch, kernels=PLAIN)
    found = mlm.decoder_inputs(both.objective, both.encoder, hidden_BxSxD, batch["position_ids"])
    return found.logits_BxKxV[..., : network.model.vocab_size]


def assert_same_logits(network: Network, params: Params, theirs: Any) -> None:
    batch = inputs(network.model)
    expected = run_theirs(network, theirs, batch)
    difference = np.abs(np.asarray(run_ours(network, params, batch)) - expected)
    if expected.ndim == 3:  # what is said of padding is nobody's
        difference = difference[batch["segment_ids"] > 0]
    assert difference.max() <= TOLERANCE


def write(folder: Path, network: Network, tensors: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(tensors, folder / huggingface.WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / huggingface.CONFIG_FILE).write_text(json.dumps(fields_of(network)))


# Logits and tensors


@pytest.mark.long
@each
def test_their_weights_give_their_logits_here_and_come_out_again(network: Network):
    theirs = theirs_of(network)
    tensors = tensors_of(theirs)
    params = huggingface.from_tensors(network, tensors)
    assert_same_logits(network, params, theirs)
    back = huggingface.to_tensors(network, params)
    assert back.keys() == tensors.keys() - network.encoder.HUGGINGFACE.tied.keys()
    assert all((back[name] == tensors[name]).all() for name in back)


@pytest.mark.long
@each
def test_our_weights_give_our_logits_there(network: Network, tmp_path: Path):
    """Through files, with Transformers' own choice of the class."""
    params = huggingface.from_tensors(network, tensors_of(theirs_of(network)))
    params = jax.tree.map(lambda x: x - 0.3 * x[::-1], params)  # those of nobody
    write(tmp_path, network, huggingface.to_tensors(network, params))
    loader = getattr(transformers, f"AutoModel{network.objective.HUGGINGFACE_SUFFIX}")
    theirs, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is class_of(network)
    assert not any(info.values()), info
    assert_same_logits(network, params, theirs.eval())
    assert huggingface.load_network(tmp_path) == network


@each
def test_what_transformers_saves_says_what_it_is(network: Network, tmp_path: Path):
    theirs_of(network).save_pretrained(tmp_path)
    loaded, params = huggingface.load(tmp_path)
    assert loaded == network
    assert huggingface.to_tensors(network, params).keys() <= tensors_of(theirs_of(network)).keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_config_leaves_out_is_as_in_transformers(family: str):
    network = huggingface.from_config({"model_type": family})
    theirs = class_of(network).config_class().to_dict()
    fields = huggingface.to_config(network)
    common = (fields.keys() & theirs.keys()) - {"architectures", "dtype"}
    assert len(common) > 12
    assert {name: fields[name] for name in common} == {name: theirs[name] for name in common}


# Positions, packed rows


@pytest.mark.parametrize("pad", [1, 5])
def test_a_packed_sequence_is_as_it_is_alone(pad: int):
    """Positions begin again behind the padding's id."""
    network = network_of(RobertaConfig(**SMALL, pad_token_id=pad))
    params = huggingface.from_tensors(network, tensors_of(theirs_of(network)))
    draw = np.random.default_rng(1)
    one, other = draw.integers(8, 211, 14).astype(np.int32), draw.integers(8, 211, 11).astype(np.int32)

    def hidden(*sequences: np.ndarray) -> np.ndarray:
        ids = np.full((1, 28), pad, np.int32)
        segments, positions = np.zeros_like(ids), np.zeros_like(ids)
        ends = np.cumsum([0, *map(len, sequences)])
        for number, (start, end) in enumerate(itertools.pairwise(ends), 1):
            ids[0, start:end], segments[0, start:end] = sequences[number - 1], number
            positions[0, start:end] = np.arange(end - start)
        batch = {
            "token_ids": ids,
            "segment_ids": segments,
            "position_ids": positions,
            "token_type_ids": np.zeros_like(ids),
            "cls_positions": np.zeros((1, 2), np.int32),
        }
        return np.asarray(encoded(network, params, batch))[0]

    packed = hidden(one, other)
    assert np.abs(packed[:14] - hidden(one)[:14]).max() <= TOLERANCE
    assert np.abs(packed[14:25] - hidden(other)[:11]).max() <= TOLERANCE


@functools.partial(jax.jit, static_argnums=0)
def encoded(network: Network, params: Params, batch: Any) -> jax.Array:
    return encode(network, params, batch, kernels=PLAIN)


def test_a_second_text_has_the_type_of_the_first_where_there_is_one_type():
    network = network_of(RobertaConfig(**SMALL))
    params = huggingface.from_tensors(network, tensors_of(theirs_of(network)))
    batch = inputs(network.model)
    other = batch | {"token_type_ids": np.ones_like(batch["token_type_ids"])}
    assert (np.asarray(encoded(network, params, batch)) == encoded(network, params, other)).all()


# Dropout


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "objective", "rate"),
    [
        (RobertaConfig, classification, "classifier_dropout"),
        (RobertaConfig, token_classification, "classifier_dropout"),
        (RobertaConfig, classification, "hidden_dropout_prob"),
        (ElectraConfig, classification, "classifier_dropout"),
        (ElectraConfig, token_classification, "hidden_dropout_prob"),
        (DistilBertConfig, classification, "seq_classif_dropout"),
        (DistilBertConfig, token_classification, "hidden_dropout_prob"),
        (DistilBertConfig, question_answering, "qa_dropout"),
        (RobertaConfig, question_answering, None),
        (ElectraConfig, question_answering, None),
    ],
)
def test_a_head_has_the_dropout_of_its_family(model: Any, objective: Any, rate: str | None):
    """Of the rates one is not zero: the head sees that one, and no other."""
    rates = {field.name for field in dataclasses.fields(model) if "dropout" in field.name}
    if rate == "hidden_dropout_prob":
        rates -= {"classifier_dropout"}  # None: the same
    for name in sorted(rates):
        others = dict.fromkeys(rates - {name}, 0.0)
        config = model(**SMALL, **others, **{name: 0.5})
        settings = network_of(config, objective).settings
        head = objective.init(settings, encoder_of(config), config, rngs=nnx.Rngs(0))
        hidden_BxSxD = jax.random.normal(jax.random.key(0), (2, 8, 60))
        segments = () if objective is not classification else (jnp.ones((2, 8), jnp.int32),)
        keys = jax.random.split(jax.random.key(1), 2)
        still, dropped = head(hidden_BxSxD, *segments), head(hidden_BxSxD, *segments, dropout_keys=keys)
        assert bool((still == dropped).all()) == (name != rate), name


@pytest.mark.parametrize("family", FAMILIES)
def test_one_rate_for_all_dropout(family: str):
    config = FAMILIES[family]
    fields = dataclasses.asdict(encoder_of(config).with_dropout(config, 0.25))
    assert {value for name, value in fields.items() if "dropout" in name} == {0.25}


# What else is in published files, and what is not


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("roberta", ["roberta.pooler.dense.weight", "roberta.embeddings.position_ids"]),
        ("xlm-roberta", ["roberta.pooler.dense.bias", "lm_head.decoder.weight", "lm_head.decoder.bias"]),
        ("distilbert", ["distilbert.embeddings.position_ids", "vocab_projector.weight"]),
        ("electra", ["electra.embeddings.position_ids", "discriminator_predictions.dense.weight"]),
    ],
)
def test_what_nothing_here_uses_is_left_out_by_name(family: str, names: list[str]):
    network = network_of(FAMILIES[family])
    tied = network.encoder.HUGGINGFACE.tied
    tensors = tensors_of(theirs_of(network))
    whole = {name: array for name, array in tensors.items() if name not in tied}
    more = {name: tensors[tied[name]] if name in tied else np.zeros(3, np.float32) for name in names}
    huggingface.from_tensors(network, whole | more)
    with pytest.raises(UserError, match=r"have a tensor pooler\.weight that \w+ForMaskedLM does not have"):
        huggingface.from_tensors(network, whole | {"pooler.weight": np.zeros(3)})
    bare = sorted(whole)[0]
    with pytest.raises(UserError, match=f"have no tensor {bare}"):
        huggingface.from_tensors(network, {name: a for name, a in whole.items() if name != bare})
    for copy in tied:
        with pytest.raises(UserError, match=f"{copy} differs from"):
            huggingface.from_tensors(network, tensors | {copy: tensors[tied[copy]] + 1})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_a_head_is_read(family: str):
    """RobertaModel, say: its tensors bear no prefix."""
    network = network_of(FAMILIES[family])
    prefix = network.encoder.HUGGINGFACE.base_prefix
    whole = tensors_of(theirs_of(network))
    base = {name.removeprefix(prefix): a for name, a in whole.items() if name.startswith(prefix)}
    params = huggingface.from_tensors(network, base, head_may_lack=True)
    assert params.keys() == {"encoder"}


def test_the_discriminator_of_electra_is_one_of_replaced_tokens_without_its_generator(tmp_path: Path):
    config = FAMILIES["electra"]
    fields = fields_of(network_of(config)) | {"architectures": ["ElectraForPreTraining"]}
    theirs = transformers.ElectraForPreTraining(transformers.ElectraConfig(**fields))
    theirs.save_pretrained(tmp_path)
    network = huggingface.load_network(tmp_path)
    assert network == Network(config, rtd, rtd.DISCRIMINATOR_ALONE)
    tensors = huggingface.load_tensors(tmp_path)
    found = huggingface.from_tensors(network, tensors, head_may_lack=True)
    assert found["objective"].keys() == {"discriminator"}
    found = huggingface.from_tensors(network_of(config), tensors, head_may_lack=True)
    assert found.keys() == {"encoder"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", [mlm_nsp, mlm_sop], ids=lambda objective: objective.Config.kind)
def test_none_has_a_head_for_pairs(family: str, objective: Any):
    refused = objective.refuses(objective.Config(), encoder_of(FAMILIES[family]), None)
    assert refused == f"{family} has no next-sentence head: use data.input_format full_sentences or documents"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "deberta-v2"},
            "is of a 'deberta-v2' model; known are bert, modernbert, roberta, xlm",
        ),
        ({"model_type": "t5"}, "is of a 't5' model"),
        ({"model_type": "roberta", "is_decoder": True}, "has is_decoder True; known is False"),
        ({"model_type": "roberta", "pad_token_id": "1"}, "pad_token_id is '1'; it must be of type int"),
        (
            {"model_type": "roberta", "max_position_embeddings": 2},
            "positions begin behind model.pad_token_id",
        ),
        ({"model_type": "distilbert", "activation": "swish"}, "hidden_act is 'swish'"),
        ({"model_type": "electra", "position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
)
def test_a_config_that_we_cannot_run_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        huggingface.from_config(fields)
