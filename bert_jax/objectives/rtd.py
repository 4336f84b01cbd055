"""Replaced-token detection (Clark et al. 2020, section 2): which tokens has a small model put in?

A masked language model, the generator, fills in the masked tokens with samples, and the encoder, the
discriminator, says of each token whether it is still the original one. Both are trained together, the
generator on the masked tokens, with no gradient through the samples; the encoder is what is fine-tuned.
Reference implementation: run_pretraining.py in google-research/electra.

Shapes in names: B rows, S row length, K predictions a row, V padded vocabulary, D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bert_jax.config import EncoderConfig, RtdConfig
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.models.layers import fold_in, param
from bert_jax.objectives import mlm
from bert_jax.objectives.mlm import DecoderInputs
from bert_jax.objectives.objective import Metric, RowShape, Sums, pairs
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.sampling import sample
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError

Config = RtdConfig
DISCRIMINATOR_ALONE = RtdConfig(generator_size=1.0)
"""Of one that was read without its generator, whose size is nowhere said: one that every encoder can have."""
INPUT_FORMATS: tuple[str, ...] = ()
REDUCTION: Literal["rows", "batch"] = "rows"
PREDICTS_TOKENS = False
HUGGINGFACE_SUFFIX = "ForPreTraining"

GENERATOR = "generator/"
"""Begins the names of the generator's tensors. In Transformers it is a model of its own, in a folder of its
own."""
ADDED = "added/"
"""Begins the names of what the discriminator adds to the tables of the generator. An export has the sums."""

GENERATOR_DROPOUT, SAMPLES = 1 << 20, (1 << 20) + 1
"""Folded into the key of a row: numbers that no layer has."""


def generator_config(settings: RtdConfig, model: EncoderConfig) -> EncoderConfig:
    """The generator: a whole number of heads of the encoder's size, and as wide as these are.

    Raises:
      UserError: objective.generator_size makes no whole number of heads.
    """
    wanted = settings.generator_size * model.num_attention_heads
    heads = max(1, round(wanted))
    if abs(wanted - heads) > 0.05:  # 0.333 is a third of 12
        raise UserError(
            f"objective.generator_size {settings.generator_size} of {model.num_attention_heads} heads is "
            f"{wanted:.3g} heads; it must be a whole number of them: {heads} are "
            f"{heads / model.num_attention_heads:.4g}"
        )
    return dataclasses.replace(
        model,
        hidden_size=heads * model.head_dim,
        num_attention_heads=heads,
        intermediate_size=max(1, round(model.intermediate_size * heads / model.num_attention_heads)),
    )


class Generator(nnx.Module):
    """A masked language model of the encoder's family."""

    def __init__(self, settings: RtdConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs):
        config = generator_config(settings, model)
        self.encoder: Any = encoder.init(config, rngs=rngs)
        self.mlm = encoder.masked_lm_head(config, rngs=rngs)
        for _, node in nnx.iter_graph(self):
            if isinstance(node, nnx.Variable):
                node.set_metadata(huggingface=GENERATOR + node.get_metadata("huggingface"))


class AddedTables(nnx.Module):
    """What the discriminator adds to each table of embeddings: nothing to begin with."""

    def __init__(self, embeddings: Any):
        for name, table in tables(embeddings):
            value = param(
                jnp.zeros(table.shape),
                table.get_metadata("logical_axes"),
                huggingface=ADDED + table.get_metadata("huggingface").removeprefix(GENERATOR),
                depth=table.get_metadata("depth"),
                decay=table.get_metadata("decay"),
            )
            setattr(self, name, value)


class RtdHead(nnx.Module):
    """The discriminator's head, and the generator without the embeddings that it takes from the encoder."""

    def __init__(self, settings: RtdConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs):
        assert encoder.replaced_token_head is not None
        self.discriminator = encoder.replaced_token_head(model, rngs=rngs)
        self.generator = Generator(settings, encoder, model, rngs=rngs)
        match settings.embeddings:
            case "shared":
                self.generator.encoder.embeddings = None
            case "gradient_disentangled":
                embeddings = self.generator.encoder.embeddings
                self.added = AddedTables(embeddings)
                for name, _ in list(tables(embeddings)):
                    setattr(embeddings, name, None)

    def share_embeddings(self, settings: RtdConfig, encoder: Any) -> None:
        """Gives each of the two what it takes of the other's embeddings.

        Shared are tables and norm, as the one scope "electra/embeddings" in google-research/electra;
        disentangled the tables (DeBERTa/apps/tasks/rtd_task.py in microsoft/DeBERTa).
        """
        match settings.embeddings:
            case "shared":
                self.generator.encoder.embeddings = encoder.embeddings
            case "gradient_disentangled":
                for name, added in tables(self.added):
                    table = getattr(encoder.embeddings, name)
                    setattr(self.generator.encoder.embeddings, name, table)
                    summed = jax.lax.stop_gradient(table[...]) + added[...]
                    setattr(encoder.embeddings, name, nnx.Param(summed))


def tables(embeddings: Any) -> Iterator[tuple[str, Any]]:
    """Tables that there are, by name."""
    for name in ("word", "position", "token_type"):
        if (table := getattr(embeddings, name, None)) is not None:
            yield name, table


def metrics(settings: Any) -> tuple[Metric, ...]:
    return (
        Metric("loss", "Loss", higher_is_better=False),
        Metric("mlm_loss", "Loss of masked tokens", higher_is_better=False, baseline="unigram_loss"),
        Metric("rtd_loss", "Loss of replaced tokens", higher_is_better=False),
        Metric("mlm_accuracy", "Accuracy on masked tokens"),
        Metric("rtd_accuracy", "Accuracy on tokens, replaced or not"),
        Metric("replaced_accuracy", "Accuracy on replaced tokens"),
    )


def refuses(settings: Any, encoder: Encoder, data: DataConfig | None) -> str | None:
    if encoder.replaced_token_head is None:
        return (
            f"{encoder.HUGGINGFACE.model_type} has no head for replaced tokens in Transformers: use "
            "ElectraConfig as the model, which has BERT's modules"
        )
    return None


def init(settings: RtdConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs) -> RtdHead:
    return RtdHead(settings, encoder, model, rngs=rngs)


def sums(
    settings: RtdConfig,
    head: Any,
    encoder: EncoderModule,
    batch: Batch,
    *,
    kernels: Kernels,
    dropout_keys: jax.Array | None = None,
) -> Sums:
    """mlm_loss and mlm_accuracy of the generator; rtd_loss, rtd_accuracy and, of the tokens that were
    replaced, replaced_accuracy. Losses in nats."""
    head.share_embeddings(settings, encoder)
    generator = head.generator
    hidden_BxSxD = generator.encoder.encode(
        batch, kernels=kernels, dropout_keys=fold_in(dropout_keys, GENERATOR_DROPOUT)
    )
    inputs = mlm.decoder_inputs(generator, generator.encoder, hidden_BxSxD, batch["mlm_positions"])
    keys_B = content_keys(batch) if dropout_keys is None else dropout_keys
    corrupted, is_replaced_BxS = corrupt(batch, samples(inputs, batch["mlm_positions"], keys_B))
    hidden_BxSxD = encoder.encode(corrupted, kernels=kernels, dropout_keys=dropout_keys)
    return mlm.token_sums(inputs, batch) | replaced_sums(
        head.discriminator(hidden_BxSxD), is_replaced_BxS, is_token_BxS=batch["segment_ids"] > 0
    )


def samples(inputs: DecoderInputs, positions_BxK: jax.Array, keys_B: jax.Array) -> jax.Array:
    """[B, K] int32: a token for each position, from the softmax of its logits; without a gradient.

    What is drawn for a column is a function of its logits, the row's key and the column alone.
    """
    # Bits of the generator "rbg" would depend on how rows are cut.
    keys_B = jax.random.wrap_key_data(jax.random.key_data(keys_B)[:, :2], impl="threefry2x32")
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, SAMPLES)
    keys_BxK = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(keys_B, positions_BxK)
    return sample(jax.lax.stop_gradient(inputs).logits_BxKxV, jax.random.key_data(keys_BxK))


def content_keys(batch: Batch) -> jax.Array:
    """[B] keys that follow from what is in a row: held-out rows have the same samples in any batch."""
    ids_BxS = jnp.where(batch["segment_ids"] > 0, batch["token_ids"] + 1, 0).astype(jnp.uint32)
    column_1xS = jnp.arange(ids_BxS.shape[1], dtype=jnp.uint32)[None]
    hash_B = (ids_BxS * ((2 * column_1xS + 1) * jnp.uint32(0x9E3779B1))).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0, impl="threefry2x32"), hash_B)


def corrupt(batch: Batch, sampled_BxK: jax.Array) -> tuple[Batch, jax.Array]:
    """The batch with samples in place of the masked tokens; and where they are not the original, [B, S] bool.

    A sample that is the original token counts as one (Clark et al. 2020, section 2).
    """
    ids_BxS, positions_BxK = batch["token_ids"], batch["mlm_positions"]
    is_used_BxK = batch["mlm_weights"] > 0
    # An unused slot writes what is there.
    there_BxK = jnp.take_along_axis(ids_BxS, positions_BxK, axis=1)
    put = jax.vmap(lambda row_S, positions_K, values_K: row_S.at[positions_K].set(values_K))
    ids_BxS = put(ids_BxS, positions_BxK, jnp.where(is_used_BxK, sampled_BxK, there_BxK))
    is_replaced_BxK = is_used_BxK & (sampled_BxK != batch["mlm_targets"])
    add = jax.vmap(lambda row_S, positions_K, values_K: row_S.at[positions_K].max(values_K))
    return {**batch, "token_ids": ids_BxS}, add(
        jnp.zeros(ids_BxS.shape, bool), positions_BxK, is_replaced_BxK
    )


def replaced_sums(logits_BxS: jax.Array, is_replaced_BxS: jax.Array, *, is_token_BxS: jax.Array) -> Sums:
    """Binary cross-entropy and hits over all tokens, and hits among those that were replaced."""
    losses_BxS = optax.sigmoid_binary_cross_entropy(logits_BxS, is_replaced_BxS.astype(jnp.float32))
    is_hit_BxS = (logits_BxS > 0) == is_replaced_BxS

    def total(x_BxS: jax.Array, where_BxS: jax.Array) -> jax.Array:
        return jnp.where(where_BxS, x_BxS, 0).sum(dtype=jnp.float32)

    loss, hits = total(losses_BxS, is_token_BxS), total(is_hit_BxS, is_token_BxS)
    found = total(is_hit_BxS, is_replaced_BxS), is_replaced_BxS.sum(dtype=jnp.float32)
    return pairs("rtd", loss, hits, is_token_BxS.sum(dtype=jnp.float32)) | {"replaced_accuracy": found}


def weights(batch: Batch) -> dict[str, jax.Array]:
    return mlm.weights(batch) | {"rtd_loss": (batch["segment_ids"] > 0).sum(dtype=jnp.float32)}


def flops(settings: Any, model: EncoderConfig, rows: RowShape) -> float:
    """The discriminator's head; the generator is counted as a network of its own (training/network.py)."""
    return rows.sequence_length * 2 * (model.hidden_size**2 + model.hidden_size)


def kept_bytes(settings: Any, model: EncoderConfig, rows: RowShape, *, tensor: int = 1) -> float:
    """The input of the activation and what comes out of it; the generator apart, as above."""
    size = 2 if model.dtype == "bfloat16" else 4
    return rows.sequence_length * 2 * model.hidden_size * size


def apart(settings: RtdConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as `embeddings="apart"` has them: two models that share nothing, as others know them."""
    head = dict(params["objective"])
    encoder, generator = dict(params["encoder"]), dict(head["generator"])
    own = generator["encoder"].get("embeddings", {})
    match settings.embeddings:
        case "shared":
            own = encoder["embeddings"]
        case "gradient_disentangled":
            added, given = head.pop("added"), encoder["embeddings"]
            own = own | {name: given[name] for name in added}
            encoder["embeddings"] = given | {name: given[name] + x for name, x in added.items()}
    generator["encoder"] = generator["encoder"] | {"embeddings": own}
    return {"encoder": encoder, "objective": head | {"generator": generator}}
