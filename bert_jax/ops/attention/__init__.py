"""Attention behind one signature: the kernels, fastest first, and which of them serves a request."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.ops.attention import block_local, cudnn, splash, xla
from bert_jax.ops.attention.kernel import Kernel, Kernels, Request
from data_pipeline.errors import UserError

KERNELS: tuple[Kernel, ...] = (splash, cudnn, block_local, xla)
"""`model.attention` "auto" is the first that does not refuse; the last refuses nothing."""

PLAIN = Kernels(xla, xla)
"""Serves any layer of any model anywhere."""


def attention(
    kernel: Kernel,
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
    """`Kernel.apply`, and zero at padding, whatever the kernel leaves there."""
    attended_BxSxHxE = kernel.apply(
        query_BxSxHxE,
        key_BxSxHxE,
        value_BxSxHxE,
        segment_ids_BxS=segment_ids_BxS,
        max_segments=max_segments,
        window=window,
        dropout_rate=dropout_rate,
        dropout_keys=dropout_keys,
    )
    return jnp.where((segment_ids_BxS > 0)[:, :, None, None], attended_BxSxHxE, 0)


def select_kernels(asked: str, request: Request, *, window: int | None) -> Kernels:
    """`select_kernel` for each kind of layers; `window` is None where none has one.

    One that was asked for by name serves the layers that it can, and must be able to serve some: the others
    have what "auto" gives them.
    """
    if window is None:
        return Kernels(select_kernel(asked, request))
    requests = request, request._replace(window=window)
    named = next((kernel for kernel in KERNELS if asked == kernel.NAME), None)
    if named is None or all(named.refuses(each) for each in requests):
        # If it must be said why not, then of the layers with a window: nearly all kernels can do without.
        windowed, whole = (select_kernel(asked, each) for each in reversed(requests))
        return Kernels(whole, windowed)
    return Kernels(*(select_kernel("auto" if named.refuses(each) else asked, each) for each in requests))


def select_kernel(asked: str, request: Request) -> Kernel:
    """The kernel of that name, or the first that does not refuse where "auto" was asked for.

    Raises:
      UserError: there is no such kernel, or it refuses; says why.
    """
    if asked == "auto":
        return next(kernel for kernel in KERNELS if kernel.refuses(request) is None)
    kernel = next((kernel for kernel in KERNELS if asked == kernel.NAME), None)
    if kernel is None:
        names = ", ".join(["auto", *(kernel.NAME for kernel in KERNELS)])
        raise UserError(f"model.attention is {asked!r}; there are {names}")
    if reason := kernel.refuses(request):
        raise UserError(f"model.attention {asked!r} {reason}; use another one, or auto")
    return kernel
