"""cuDNN's fused attention on NVIDIA GPUs; packed rows from Hopper on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.ops.attention.kernel import Request

NAME = "cudnn"
MANUAL_AXES = True  # JAX's partitioner of the call fails where one axis is cut by hand and another is not
KEEPS_PROBABILITIES = False

HOPPER = 9.0


def refuses(request: Request) -> str | None:
    """The limits are those of JAX: jax/_src/cudnn/fused_attention_stablehlo.py, check_is_flash_attention."""
    if request.platform != "cuda":
        return "is for NVIDIA GPUs"
    if request.capability is None or request.capability < 8.0:
        return f"wants compute capability 8.0 (Ampere) or later, and this GPU has {request.capability}"
    if request.window is not None:
        return "sees all of a sequence, not a window"
    if request.dropout:
        # JAX has the seed as a constant of the program.
        return "would drop the same probabilities in every step (model.attention_probs_dropout_prob)"
    if request.packed and request.capability < HOPPER:
        return (
            "takes packed rows from compute capability 9.0 (Hopper) on, and this GPU has "
            f"{request.capability} (data.max_sequences_per_row)"
        )
    if request.dtype != "bfloat16":
        return f"computes in bfloat16, not in {request.dtype} (model.dtype)"
    largest = 256 if request.capability >= HOPPER else 128
    if request.head_dim % 8 or request.head_dim > largest:
        return f"takes heads of multiples of 8 up to {largest}, not of {request.head_dim}"
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
) -> jax.Array:
    """Attention by cuDNN; see `Kernel.apply`."""
    assert window is None, "it refuses a window"
    assert dropout_rate == 0 or dropout_keys is None, "it refuses dropout"
    # What jax.nn.dot_product_attention calls; that one has no argument for packed rows.
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    lengths, offsets = segments(segment_ids_BxS, max_segments=max_segments)
    attended = dot_product_attention(
        query_BxSxHxE,
        key_BxSxHxE,
        value_BxSxHxE,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=query_BxSxHxE.shape[-1] ** -0.5,
        mask_type=MaskType.PADDING,
    )
    return attended[0] if isinstance(attended, tuple) else attended


def segments(segment_ids_BxS: jax.Array, *, max_segments: int) -> tuple[jax.Array, jax.Array | None]:
    """Lengths and first columns of the segments of each row, int32, as JAX wants them.

    Returns:
      [B] lengths and None where a row has one segment; [B, P] and [B, P + 1] where it may have several, with
      -1 for those that it does not have.
    """
    number_P = jnp.arange(1, max_segments + 1)
    lengths_BxP = (segment_ids_BxS[:, :, None] == number_P[None, None]).sum(axis=1, dtype=jnp.int32)
    if max_segments == 1:
        return lengths_BxP[:, 0], None
    first_BxP = jnp.cumsum(lengths_BxP, axis=1) - lengths_BxP
    exists_BxP = lengths_BxP > 0
    first_BxP = jnp.pad(jnp.where(exists_BxP, first_BxP, -1), ((0, 0), (0, 1)), constant_values=-1)
    return jnp.where(exists_BxP, lengths_BxP, -1), first_BxP
