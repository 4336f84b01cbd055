"""Attention behind one signature: the kernels, fastest first, and which of them serves a request."""

from __future__ import annotations

from bert_jax.ops.attention import cudnn, splash, xla
from bert_jax.ops.attention.kernel import Kernel, Request
from data_pipeline.errors import UserError

KERNELS: tuple[Kernel, ...] = (splash, cudnn, xla)
"""`model.attention` "auto" is the first that does not refuse; the last refuses nothing."""


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
