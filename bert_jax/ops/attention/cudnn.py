"""cuDNN's fused attention through JAX's public function, for one sequence a row on NVIDIA GPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.ops.attention.kernel import Request

NAME = "cudnn"
MANUAL_AXES = False
KEEPS_PROBABILITIES = False


def refuses(request: Request) -> str | None:
    """The limits are those of JAX: jax/_src/cudnn/fused_attention_stablehlo.py, check_is_flash_attention."""
    if request.platform != "cuda":
        return "is for NVIDIA GPUs"
    if request.capability is None or request.capability < 8.0:
        return f"wants compute capability 8.0 (Ampere) or later, and this GPU has {request.capability}"
    if request.dropout:
        return "has no dropout of the probabilities here (model.attention_probs_dropout_prob)"
    if request.packed:
        return "takes one sequence a row here (data.max_sequences_per_row)"
    if request.dtype != "bfloat16":
        return f"computes in bfloat16, not in {request.dtype} (model.dtype)"
    if request.head_dim % 8 or request.head_dim > 128:
        return f"takes heads of multiples of 8 up to 128, not of {request.head_dim}"
    return None


def apply(
    query_BxSxHxE: jax.Array,
    key_BxSxHxE: jax.Array,
    value_BxSxHxE: jax.Array,
    *,
    segment_ids_BxS: jax.Array,
    dropout_rate: float = 0.0,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Attention by cuDNN, for rows with one sequence; see `Kernel.apply`."""
    assert dropout_rate == 0 or dropout_keys is None, "it refuses dropout"
    lengths_B = (segment_ids_BxS > 0).sum(axis=1, dtype=jnp.int32)
    return jax.nn.dot_product_attention(
        query_BxSxHxE,
        key_BxSxHxE,
        value_BxSxHxE,
        query_seq_lengths=lengths_B,
        key_value_seq_lengths=lengths_B,
        implementation="cudnn",
    )
