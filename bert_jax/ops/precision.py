"""Precision of matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp


def precision(dtype: Any) -> AbstractContextManager[None]:
    """float32 means float32: TPUs and recent GPUs would multiply it in fewer bits by default.

    Args:
      dtype: or its name. Products of others are as JAX has them.
    """
    return jax.default_matmul_precision("highest" if jnp.dtype(dtype) == jnp.float32 else "default")
