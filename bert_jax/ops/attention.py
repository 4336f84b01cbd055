"""Attention behind one signature: the plain form, and the kernels that do the same in less memory."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bert_jax.config import Config
from bert_jax.ops.dropout import dropout
from bert_jax.parallel.sharding import spec

SHORTEST_SPLASH = 512
"""Below it the kernel moves as many bytes as the plain form: one layer of BERT-large for v5e, 32 rows a chip,
compiled: 0.39 and 0.37 GB at S=128, 1.6 and 4.3 GB at S=512."""


def attention(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    *,
    segment_ids_BxS: jax.Array,
    dropout_rate: float = 0.0,
    dropout_keys: jax.Array | None = None,
    implementation: Literal["auto", "xla", "cudnn", "splash"] = "xla",
) -> jax.Array:
    """Bidirectional attention (Vaswani et al. 2017, equation 1) within segments; returns [B, S, H, E].

    A position sees exactly those with its own segment id: packed sequences do not see each other, nor
    padding (segment 0), nor does padding see them, and the gradients between them are exactly zero. Dropout
    is on the probabilities, if there are keys, one for each row. The softmax is in float32.

    `auto` is `xla` here: `choose` picks for a platform. `cudnn` takes one sequence a row, and its results at
    padding are unspecified.
    """
    match implementation:
        case "auto" | "xla":
            return _xla(
                query_BxSxHxE, key_BxSxHxE, value_BxSxHxE, segment_ids_BxS, dropout_rate, dropout_keys
            )
        case "cudnn":
            lengths_B = (segment_ids_BxS > 0).sum(axis=1, dtype=jnp.int32)
            return jax.nn.dot_product_attention(
                query_BxSxHxE,
                key_BxSxHxE,
                value_BxSxHxE,
                query_seq_lengths=lengths_B,
                key_value_seq_lengths=lengths_B,
                implementation="cudnn",
            )
        case "splash":
            return splash(query_BxSxHxE, key_BxSxHxE, value_BxSxHxE, segment_ids_BxS=segment_ids_BxS)


def choose(config: Config, *, platform: str) -> Config:
    """`config` with a kernel in place of `auto`: what is fastest on the platform and can do what is asked."""
    if config.model.attention != "auto":
        return config
    drops = config.model.attention_probs_dropout_prob > 0
    S = config.data.sequence_length
    choice: Literal["xla", "cudnn", "splash"] = "xla"
    if platform == "tpu" and not drops and S >= SHORTEST_SPLASH and S % 128 == 0:
        choice = "splash"
    one_a_row = config.data.max_sequences_per_row == 1
    if platform in ("gpu", "cuda") and not drops and one_a_row and config.model.dtype == "bfloat16":
        choice = "cudnn"
    return dataclasses.replace(config, model=dataclasses.replace(config.model, attention=choice))


def _xla(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    segment_ids_BxS: jax.Array,
    dropout_rate: float,
    dropout_keys: jax.Array | None,
) -> jax.Array:
    """The plain form, the reference for the others."""
    scale = query_BxSxHxE.shape[-1] ** -0.5
    logits_BxHxQxK = jnp.einsum(
        "bqhe,bkhe->bhqk", query_BxSxHxE * scale, key_BxSxHxE, preferred_element_type=jnp.float32
    )
    visible_Bx1xQxK = (segment_ids_BxS[:, :, None] == segment_ids_BxS[:, None, :])[:, None]
    logits_BxHxQxK = jnp.where(visible_Bx1xQxK, logits_BxHxQxK, jnp.finfo(jnp.float32).min)
    probs_BxHxQxK = _softmax(logits_BxHxQxK, value_BxSxHxE.dtype)
    if dropout_keys is not None:
        probs_BxHxQxK = dropout(probs_BxHxQxK, rate=dropout_rate, keys=dropout_keys)
    return jnp.einsum("bhqk,bkhe->bqhe", probs_BxHxQxK, value_BxSxHxE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(logits: jax.Array, dtype: Any) -> jax.Array:
    """Over the last axis, in float32. The backward pass keeps the result, in `dtype`, and nothing else."""
    return jax.nn.softmax(logits, axis=-1).astype(dtype)


def _softmax_forward(logits: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    probs = _softmax(logits, dtype)
    return probs, probs


def _softmax_backward(dtype: Any, probs: jax.Array, by_probs: jax.Array) -> tuple[jax.Array]:
    probs, by_probs = probs.astype(jnp.float32), by_probs.astype(jnp.float32)
    return (probs * (by_probs - (probs * by_probs).sum(axis=-1, keepdims=True)),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def splash(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    *,
    segment_ids_BxS: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """JAX's Pallas kernel for TPUs, with segment ids; each device on its own rows and heads.

    Args:
      interpret: run the kernel's steps one by one, on any platform; for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    def local(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array) -> jax.Array:
        _, S, H, E = query.shape
        block = next(size for size in (512, 256, 128) if S % size == 0)
        kernel = kernels.make_splash_mha(
            masks.MultiHeadMask([masks.FullMask((S, S))] * H),
            block_sizes=kernels.BlockSizes(
                block_q=block,
                block_kv=block,
                block_q_dkv=block,
                block_kv_dkv=block,
                use_fused_bwd_kernel=True,
            ),
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )

        def row(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array) -> jax.Array:
            by_head = (x.swapaxes(0, 1) for x in (query * E**-0.5, key, value))
            segments = kernels.SegmentIds(segment_ids, segment_ids)
            return kernel(*by_head, segment_ids=segments).swapaxes(0, 1)

        return jax.vmap(row)(query, key, value, segment_ids)

    mesh = jax.sharding.get_abstract_mesh()
    uncut = set(mesh.axis_names) - set(mesh.manual_axes)
    if not uncut:
        return local(query_BxSxHxE, key_BxSxHxE, value_BxSxHxE, segment_ids_BxS)
    by_head = spec("batch", None, "heads", None, only=uncut)
    return jax.shard_map(
        local,
        in_specs=(by_head, by_head, by_head, spec("batch", None, only=uncut)),
        out_specs=by_head,
        axis_names=uncut,
        check_vma=False,
    )(query_BxSxHxE, key_BxSxHxE, value_BxSxHxE, segment_ids_BxS)
