"""JAX's Pallas attention kernel for TPUs, with segment ids."""

from __future__ import annotations

import jax

from bert_jax.ops.attention.kernel import Request
from bert_jax.parallel.sharding import spec

NAME = "splash"
MANUAL_AXES = True
KEEPS_PROBABILITIES = False

MIN_SEQUENCE = 512
"""Below it the kernel moves as many bytes as plain XLA: one layer of BERT-large for v5e, 32 rows a chip,
compiled: 0.39 and 0.37 GB at S=128, 1.6 and 4.3 GB at S=512."""


def refuses(request: Request) -> str | None:
    if request.platform != "tpu":
        return "is for TPUs"
    if request.dropout:
        return "has no dropout of the probabilities (model.attention_probs_dropout_prob)"
    if request.sequence_length % 128 or request.sequence_length < MIN_SEQUENCE:
        return (
            f"takes rows of multiples of 128 from {MIN_SEQUENCE} on, not of {request.sequence_length} "
            "(data.sequence_length)"
        )
    return None


def apply(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    *,
    segment_ids_BxS: jax.Array,
    max_segments: int = 1,
    window: int | None = None,
    dropout_rate: float = 0.0,
    dropout_keys: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attention by Splash, each device on its own rows and heads; see `Kernel.apply`.

    Args:
      interpret: run the kernel's steps one by one, on any platform; for tests.
    """
    assert dropout_rate == 0 or dropout_keys is None, "it refuses dropout"
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    def local(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array) -> jax.Array:
        _, S, H, E = query.shape
        block = next(size for size in (512, 256, 128) if S % size == 0)
        seen = masks.FullMask((S, S)) if window is None else masks.LocalMask((S, S), (window, window), 0)
        kernel = kernels.make_splash_mha(
            masks.MultiHeadMask([seen] * H),
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
