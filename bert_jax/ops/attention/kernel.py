"""What an attention kernel is, the request that it takes or refuses, and those that a model has."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax


class Request(NamedTuple):
    """What is asked of attention in one run: all that decides which kernels can serve it."""

    platform: str
    """"cpu", "tpu", "cuda" or "rocm"."""
    capability: float | None
    """CUDA compute capability, such as 9.0; None elsewhere."""
    dtype: str
    sequence_length: int
    head_dim: int
    dropout: bool
    """Whether the probabilities have dropout."""
    packed: bool
    """Several sequences in a row."""
    window: int | None = None
    """How many positions a query sees to each side; None: all of its sequence."""


class Kernel(Protocol):
    """One way to compute attention. A module of this folder that is named in KERNELS is one."""

    @property
    def NAME(self) -> str:
        """The value of `model.attention` that asks for it."""

    @property
    def MANUAL_AXES(self) -> bool:
        """Whether it is compiled apart from XLA: mesh axes around it are cut by hand, with shard_map.

        All of them or none.
        """

    @property
    def KEEPS_PROBABILITIES(self) -> bool:
        """Whether the attention probabilities wait in memory for the backward pass."""

    def refuses(self, request: Request) -> str | None:
        """Why it cannot serve a request, to follow its name in a sentence; None if it can."""

    def apply(
        self,
        query_BxSxHxE: jax.Array,
        key_BxSxHxE: jax.Array,
        value_BxSxHxE: jax.Array,
        *,
        segment_ids_BxS: jax.Array,
        max_segments: int,
        window: int | None,
        dropout_rate: float,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        """Bidirectional attention (Vaswani et al. 2017, equation 1) within segments; returns [B, S, H, E].

        A position sees exactly those with its own segment id: packed sequences do not see each other, nor
        padding (segment 0), nor does padding see them, and the gradients between them are exactly zero. The
        softmax is in float32. What comes out at padding is unspecified; `attention` makes it zero.

        Args:
          segment_ids_BxS: 1, 2 ... from left to right, then 0.
          max_segments: no row has more of them.
          window: position i sees j where |i - j| <= window; None: all of its segment.
          dropout_rate: of the probabilities, where there are keys.
          dropout_keys: [B] typed keys, one a row; None: no dropout.
        """


class Kernels(NamedTuple):
    """The attention kernels of a model, which may have layers of two kinds."""

    whole: Kernel
    """For layers that see all of a sequence."""
    windowed: Kernel | None = None
    """For layers that see a window; None where there are none."""

    def of(self, window: int | None) -> Kernel:
        """The kernel of the layers with that window."""
        if window is None:
            return self.whole
        assert self.windowed is not None, "the encoder did not say that it has a window"
        return self.windowed

    @property
    def names(self) -> str:
        if self.windowed is None:
            return self.whole.NAME
        return f"{self.whole.NAME}, {self.windowed.NAME} within windows"

    @property
    def manual_axes(self) -> bool:
        """Whether one of them cuts mesh axes by hand."""
        return any(kernel.MANUAL_AXES for kernel in self if kernel is not None)
