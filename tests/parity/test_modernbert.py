"""The modern encoder is Transformers' ModernBERT: logits, heads, steps; windows and packed rows are exact."""

from __future__ import annotations

import dataclasses
import functools
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

from bert_jax.config import GroupTaskConfig, ModernBertConfig
from bert_jax.interop import huggingface
from bert_jax.models import modernbert
from bert_jax.objectives import mlm
from bert_jax.ops.attention import PLAIN, block_local, xla
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.tasks import TASKS, classification
from bert_jax.training.network import Network, Params, encode, init_params, modules, parameters
from data_pipeline.errors import UserError
from tests.helpers.pytorch import SPECIAL_TOKENS

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TOLERANCE = 2e-5
BLOCKS = Kernels(xla, block_local)

SMALL = ModernBertConfig(
    vocab_size=211,
    hidden_size=48,
    num_hidden_layers=7,
    num_attention_heads=4,
    intermediate_size=72,
    max_position_embeddings=320,
    local_attention=64,
)
SHAPES = {
    "window 64": SMALL,
    "window 128": dataclasses.replace(SMALL, local_attention=128, num_attention_heads=12),
    "one head, layers that end within a period": dataclasses.replace(
        SMALL, num_hidden_layers=6, num_attention_heads=1, hidden_activation="gelu_new"
    ),
    "one layer": dataclasses.replace(SMALL, num_hidden_layers=1, hidden_size=16),
    "all global": dataclasses.replace(SMALL, num_hidden_layers=2, global_attn_every_n_layers=1),
    "other bases": dataclasses.replace(
        SMALL,
        num_hidden_layers=5,
        global_attn_every_n_layers=2,
        local_attention=10,
        global_rope_theta=10_000.0,
        local_rope_theta=500.0,
        norm_eps=1e-6,
    ),
}


def masked_lm(config: ModernBertConfig) -> Network:
    return Network(config, mlm, mlm.Config())


def theirs_of(network: Network) -> Any:
    """Their model with weights larger than the usual, so that nothing hides."""
    torch.manual_seed(0)
    fields = huggingface.to_config(network) | SPECIAL_TOKENS
    theirs = getattr(transformers, network.huggingface_class)(transformers.ModernBertConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return theirs


def tensors_of(theirs: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}


def inputs(*, length: int = 301, rows: int = 4) -> dict[str, np.ndarray]:
    """Random tokens in our batch format, rows of different lengths."""
    draw = np.random.default_rng(0)
    column = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    inside = column < np.linspace(3, length, rows).astype(int)[:, None]
    return {
        "token_ids": np.where(inside, draw.integers(1, 200, (rows, length)), 0).astype(np.int32),
        "segment_ids": inside.astype(np.int32),
        "position_ids": column,
        "token_type_ids": np.zeros((rows, length), np.int32),
    }


def run_theirs(theirs: Any, batch: dict[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return theirs(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["segment_ids"]).long(),
        )


@functools.partial(jax.jit, static_argnums=(0, 3))
def token_logits(network: Network, params: Params, batch: Any, kernels: Kernels) -> jax.Array:
    """Of the masked-LM head at every position: [B, S, V]."""
    both = modules(network, params)
    hidden_BxSxD = both.encoder.encode(batch, kernels=kernels)
    inputs = mlm.decoder_inputs(
        both.objective, both.encoder, hidden_BxSxD, jnp.asarray(batch["position_ids"])
    )
    return inputs.logits_BxKxV


def assert_same_logits(network: Network, params: Params, theirs: Any, kernels: Kernels = PLAIN) -> None:
    batch = inputs()
    found = np.asarray(token_logits(network, params, batch, kernels))[..., : network.model.vocab_size]
    expected = run_theirs(theirs, batch).logits.numpy()
    assert np.abs(found - expected)[batch["segment_ids"] > 0].max() <= TOLERANCE


# The encoder and its masked-LM head


@pytest.mark.long
@pytest.mark.parametrize("kernels", [PLAIN, BLOCKS], ids=lambda kernels: kernels.windowed.NAME)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_their_weights_give_their_logits_here(shape: ModernBertConfig, kernels: Kernels):
    network = masked_lm(shape)
    theirs = theirs_of(network)
    assert_same_logits(network, huggingface.from_tensors(network, tensors_of(theirs)), theirs, kernels)


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_our_weights_give_our_logits_there(shape: ModernBertConfig, tmp_path: Path):
    """Through the files that `export` writes, with no code of ours."""
    network = masked_lm(shape)
    params = lively(network)
    write(tmp_path, network, params)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is transformers.ModernBertForMaskedLM
    assert not any(info.values()), info
    assert_same_logits(network, params, theirs.eval())
    assert huggingface.load_network(tmp_path) == network


def lively(network: Network) -> Params:
    """Weights larger than the initial ones."""
    params = init_params(network, jax.random.key(1))
    return jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def write(folder: Path, network: Network, params: Params) -> None:
    tensors = huggingface.to_tensors(network, params)
    safetensors.numpy.save_file(tensors, folder / huggingface.WEIGHTS_FILE, metadata={"format": "pt"})
    fields = huggingface.to_config(network) | SPECIAL_TOKENS
    (folder / huggingface.CONFIG_FILE).write_text(json.dumps(fields))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_and_out_again_gives_identical_tensors(shape: ModernBertConfig):
    network = masked_lm(shape)
    tensors = tensors_of(theirs_of(network))
    back = huggingface.to_tensors(network, huggingface.from_tensors(network, tensors))
    assert back.keys() == tensors.keys() - {"decoder.weight"}
    assert all((back[name] == tensors[name]).all() for name in back)


@pytest.mark.long
def test_initial_weights_are_distributed_as_theirs():
    """Standard deviations and truncations, tensor by tensor."""
    network = masked_lm(dataclasses.replace(SMALL, hidden_size=256, intermediate_size=512))
    ours = huggingface.to_tensors(network, init_params(network, jax.random.key(0)))
    torch.manual_seed(0)
    fields = huggingface.to_config(network) | SPECIAL_TOKENS
    theirs = tensors_of(transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**fields)))
    for name, array in ours.items():
        assert array.std() == pytest.approx(theirs[name].std(), rel=0.05), name
        assert np.abs(array).max() == pytest.approx(np.abs(theirs[name]).max(), rel=0.05), name


# Heads

HEADS = [task for task in TASKS if not issubclass(task.Config, GroupTaskConfig)]
"""Those for groups of texts: tests/interop/test_sentence_transformers.py
and tests/finetuning/test_reranking.py."""


@pytest.mark.long
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("task", HEADS, ids=lambda task: task.Config.kind)
def test_every_head_is_theirs(task: Any, pooling: Any, tmp_path: Path):
    """With their weights here; and there, in Transformers' own choice of a class, with ours."""
    fields = {field.name for field in dataclasses.fields(task.Config)}
    settings = task.Config(**({"labels": ("a", "b", "c")} if "labels" in fields else {}))
    config = dataclasses.replace(SMALL, num_hidden_layers=2, classifier_pooling=pooling)
    network = Network(config, task, settings)
    theirs = theirs_of(network)
    tensors = tensors_of(theirs)
    params = huggingface.from_tensors(network, tensors)
    back = huggingface.to_tensors(network, params)
    assert back.keys() == tensors.keys()
    assert all((back[name] == tensors[name]).all() for name in back)

    write(tmp_path, network, params)
    loader = getattr(transformers, f"AutoModel{task.HUGGINGFACE_SUFFIX}")
    again, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(theirs)
    assert not any(info.values()), info

    batch = inputs(length=100)

    @jax.jit
    def logits(params: Params) -> jax.Array:
        both = modules(network, params)
        return task.logits(settings, both.objective, both.encoder, batch, kernels=PLAIN)

    found = np.asarray(logits(params))
    for model in theirs, again.eval():
        said = run_theirs(model, batch)
        logits = (
            torch.stack([said.start_logits, said.end_logits], dim=-1)
            if "start_logits" in said
            else said.logits
        )
        difference = np.abs(found - logits.numpy())
        if found.ndim == 3:  # what is said of padding is nobody's
            difference = difference[batch["segment_ids"] > 0]
        assert difference.max() <= TOLERANCE


@pytest.mark.long
def test_a_classifier_starts_with_the_head_of_the_masked_lm():
    """As in Transformers, where both call it head.dense and head.norm."""
    pretrained = huggingface.to_tensors(masked_lm(SMALL), lively(masked_lm(SMALL)))
    network = Network(SMALL, classification, classification.Config(labels=("a", "b")))
    params = huggingface.from_tensors(network, pretrained, head_may_lack=True, ignored={"decoder.bias"})
    found = params["objective"]["head"]["dense"]["kernel"]
    assert (pretrained["head.dense.weight"] == found.T).all()


# Windows and packed rows


@pytest.mark.long
def test_a_row_of_several_sequences_is_each_of_them_alone():
    network, kernels = masked_lm(SMALL), BLOCKS
    params = lively(network)
    lengths = (150, 37, 113)
    draw = np.random.default_rng(1)
    sequences = [draw.integers(1, 200, length).astype(np.int32) for length in lengths]

    def batch_of(rows: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
        def laid(parts: list[list[np.ndarray]]) -> np.ndarray:
            joined = [np.concatenate(row) for row in parts]
            return np.stack([np.pad(row, (0, 320 - len(row))) for row in joined]).astype(np.int32)

        return {
            "token_ids": laid(rows),
            "segment_ids": laid([[np.full(len(x), i + 1) for i, x in enumerate(row)] for row in rows]),
            "position_ids": laid([[np.arange(len(x)) for x in row] for row in rows]),
        }

    run = jax.jit(lambda batch: encode(network, params, batch, kernels=kernels))
    packed = np.asarray(run(batch_of([sequences])))[0]
    alone = np.asarray(run(batch_of([[sequence] for sequence in sequences])))
    start = 0
    for sequence, hidden in zip(sequences, alone, strict=True):
        end = start + len(sequence)
        assert np.abs(packed[start:end] - hidden[: len(sequence)]).max() <= TOLERANCE
        start = end


@pytest.mark.long
@pytest.mark.parametrize("kernels", [PLAIN, BLOCKS], ids=lambda kernels: kernels.windowed.NAME)
def test_a_local_layer_sees_half_of_its_window_to_each_side_and_not_one_position_more(kernels: Kernels):
    """The gradient of one position of a local layer to what enters it; one layer is global, one local."""
    config = dataclasses.replace(SMALL, num_hidden_layers=2, local_attention=20)
    network = masked_lm(config)
    encoder = modules(network, lively(network)).encoder
    definition, stacked = nnx.split(encoder.layers)
    layer = nnx.merge(definition, jax.tree.map(lambda x: x[0], stacked))
    S, middle = 128, 64
    ids = jnp.broadcast_to(jnp.arange(S), (1, S))
    positions = modernbert.rotation(ids, theta=1e4, head_dim=config.head_dim, dtype="float32")

    def at_middle(x_BxSxD: jax.Array) -> jax.Array:
        y_BxSxD = layer(
            x_BxSxD,
            positions=positions,
            segment_ids_BxS=jnp.ones((1, S), jnp.int32),
            max_segments=1,
            window=config.local_attention // 2,
            kernels=kernels,
            dropout_keys=None,
        )
        return y_BxSxD[0, middle].sum()

    x_BxSxD = jax.random.normal(jax.random.key(0), (1, S, config.hidden_size))
    reached = np.flatnonzero(np.abs(jax.grad(at_middle)(x_BxSxD)[0]).max(axis=-1))
    assert reached.tolist() == [*range(middle - 10, middle + 11)]


@pytest.mark.long
def test_scanned_and_unrolled_layers_give_the_same_gradient():
    """Five layers: the first, a period of three, and one that fills none."""
    small = dataclasses.replace(SMALL, num_hidden_layers=5, local_attention=8)
    batch, params = inputs(length=32, rows=2), lively(masked_lm(small))

    def gradient(**changes: Any) -> Params:
        network = masked_lm(dataclasses.replace(small, **changes))
        return jax.jit(
            jax.grad(lambda params: jnp.square(encode(network, params, batch, kernels=PLAIN)).sum())
        )(params)

    expected = gradient()
    for changes in {"scan_unroll": 5}, {"remat": "full"}:
        for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(gradient(**changes)), strict=True):
            scale = np.abs(one).max() or 1
            assert np.abs(one - other).max() <= 1e-5 * scale


def test_attention_maps_are_theirs():
    network = masked_lm(SMALL)
    theirs = theirs_of(network)
    theirs.config._attn_implementation = "eager"
    batch = {name: array[-1:] for name, array in inputs().items()}
    with torch.no_grad():
        said = theirs(input_ids=torch.tensor(batch["token_ids"]).long(), output_attentions=True)
    expected = torch.stack(said.attentions)[:, 0].numpy()
    params = huggingface.from_tensors(network, tensors_of(theirs))
    found = jax.jit(lambda params: modules(network, params).encoder.attention_maps(batch))(params)
    assert np.abs(np.asarray(found) - expected).max() <= TOLERANCE


# Configs


def test_both_spellings_of_a_config_are_read():
    """Transformers 5 writes layer_types and rope_parameters; 4.48 to 4.57 wrote, and read, the others."""
    network = masked_lm(SHAPES["other bases"])
    fields = huggingface.to_config(network)
    new = {"layer_types", "rope_parameters"}
    old = {"global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"}
    assert fields.keys() >= new | old
    assert fields["local_attention"] == 10
    for left_out in new, old:
        kept = {name: value for name, value in fields.items() if name not in left_out}
        assert huggingface.from_config(kept) == network
        theirs = transformers.ModernBertConfig(**kept)
        assert theirs.layer_types == fields["layer_types"]
        ropes = {kind: theirs.rope_parameters[kind]["rope_theta"] for kind in theirs.rope_parameters}
        assert ropes == {"full_attention": 10_000.0, "sliding_attention": 500.0}


def test_the_keys_of_their_first_release_are_written():
    """Those of configuration_modernbert.py in Transformers 4.48.0."""
    legacy = {
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "hidden_activation", "max_position_embeddings", "initializer_range", "initializer_cutoff_factor",
        "norm_eps", "norm_bias", "global_rope_theta", "attention_bias", "attention_dropout",
        "global_attn_every_n_layers", "local_attention", "local_rope_theta", "embedding_dropout", "mlp_bias",
        "mlp_dropout", "decoder_bias", "classifier_pooling", "classifier_dropout", "classifier_bias",
        "classifier_activation",
    }  # fmt: skip
    assert huggingface.to_config(masked_lm(SMALL)).keys() >= legacy


def test_what_a_config_leaves_out_is_as_in_transformers():
    network = huggingface.from_config(
        {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": 50368}
    )
    assert network.model == ModernBertConfig()
    fields = huggingface.to_config(network)
    theirs = transformers.ModernBertConfig().to_dict()
    common = (fields.keys() & theirs.keys()) - {"architectures", "dtype"}
    assert len(common) > 25
    assert {name: fields[name] for name in common} == {name: theirs[name] for name in common}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "the rope type 'linear'; known is 'default'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}},
            "the rope type 'yarn'",
        ),
        ({"rope_parameters": ["default"]}, r"rope_parameters \['default'\]"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "known are some for full_attention",
        ),
        (
            {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}},
            "partial_rotary_factor for rotary positions",
        ),
        ({"layer_types": ["sliding_attention"] * 7}, "known are full_attention from the first layer on"),
        ({"layer_types": ["full_attention"] * 3}, "for 7 layers"),
        ({"local_attention": 129}, "local_attention is 129; it must be even"),
        ({"norm_bias": True}, "norm_bias True; known is False"),
        ({"model_type": "nomic_bert"}, "of a 'nomic_bert' model; known are bert, modernbert"),
    ],
)
def test_a_config_that_we_cannot_run_is_refused(change: dict[str, Any], message: str):
    fields = huggingface.to_config(masked_lm(SMALL))
    with pytest.raises(UserError, match=message):
        huggingface.from_config(fields | change)


def test_every_parameter_is_declared_with_what_the_optimizer_asks():
    """Norms and the bias of the decoder do not decay; depth counts the first layer as the others."""
    declared = jax.tree.leaves(parameters(masked_lm(SMALL)))
    decays = {name for p in declared for name in huggingface.tensor_names(p) if p.decay}
    assert not any("norm" in name or name.endswith("bias") for name in decays)
    depths = {
        name: depth
        for p in declared
        if isinstance(p.depth, int)
        for name, depth in [(p.huggingface, p.depth)]
    }
    assert depths["model.layers.0.attn.Wqkv.weight"] == 1
    assert {p.depth for p in declared if not isinstance(p.depth, int)} == {(2, 3, 4, 5, 6, 7)}
