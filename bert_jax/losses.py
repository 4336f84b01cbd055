"""Losses and accuracies of pretraining, as (sum, weight) pairs.

Pairs add up over microbatches, devices and evaluation batches; the division happens once, at the end. So
any split of a batch gives the same value and the same gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bert_jax.model import Batch, Logits

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""Metric -> (sum, weight), float32 scalars."""


def sums(logits: Logits, batch: Batch) -> Sums:
    """mlm_loss, mlm_accuracy, nsp_loss and nsp_accuracy of a batch; losses in nats (Devlin et al., 3.1)."""
    return _head("mlm", logits.mlm_BxKxV, batch["mlm_targets"], batch["mlm_weights"]) | _head(
        "nsp", logits.nsp_BxPx2, batch["nsp_labels"], batch["nsp_weights"]
    )


def mean(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """sum / weight; 0 where nothing was weighed."""
    total, weight = pair
    return total / jnp.maximum(weight, 1)


def _head(name: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    """Cross-entropy and accuracy over the last axis, weighted."""
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - chosen
    correct = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
    weight = weights.sum()
    return {
        f"{name}_loss": ((nll * weights).sum(), weight),
        f"{name}_accuracy": ((correct * weights).sum(), weight),
    }
