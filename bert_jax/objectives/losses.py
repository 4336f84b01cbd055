"""Losses and accuracies, as (sum, weight) pairs.

Pairs add up over microbatches, devices and evaluation batches; the division happens once, at the end. So
any split of a batch gives the same value and the same gradient.

Shapes in names: N predictions of a batch, C classes, V padded vocabulary, D hidden.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config import ModelConfig
from bert_jax.models.bert import Batch, Outputs, decode, precision

Sums = dict[str, tuple[jax.Array, jax.Array]]
"""Metric -> (sum, weight), float32 scalars."""


def sums(outputs: Outputs, batch: Batch) -> Sums:
    """mlm_loss, mlm_accuracy, nsp_loss and nsp_accuracy of a batch; losses in nats (Devlin et al., 3.1)."""
    mlm_labels, mlm_weights = batch["mlm_targets"].ravel(), batch["mlm_weights"].ravel()
    mlm_BxKxD = outputs.mlm_BxKxD
    mlm = decoded_cross_entropy(
        mlm_BxKxD.reshape(-1, mlm_BxKxD.shape[-1]),
        outputs.decoder_VxD,
        outputs.decoder_bias_V,
        mlm_labels,
        mlm_weights,
    )
    nsp_labels, nsp_weights = batch["nsp_labels"].ravel(), batch["nsp_weights"].ravel()
    nsp = _weighted(*_scores(outputs.nsp_BxPx2.reshape(-1, 2), nsp_labels), nsp_weights)
    return _pairs("mlm", *mlm, mlm_weights.sum()) | _pairs("nsp", *nsp, nsp_weights.sum())


def task_sums(config: ModelConfig, logits: jax.Array, batch: Batch) -> Sums:
    """loss of a batch, in nats or squared, and accuracy where there are labels (Devlin et al., 4).

    Args:
      logits: of `model.task_logits`.
    """
    labels, weights = batch["labels"], batch["weights"]
    match config.head:
        case "regression":
            loss = (jnp.square(logits[:, 0] - labels) * weights).sum()
            return {"loss": (loss, weights.sum())}
        case "qa":  # the mean over the beginning and the end, each a choice among the columns
            logits = logits.swapaxes(1, 2).reshape(-1, logits.shape[1])
            weights = jnp.repeat(weights, 2)
    loss, hits = _weighted(*_scores(logits.reshape(-1, logits.shape[-1]), labels.ravel()), weights.ravel())
    return {"loss": (loss, weights.sum()), "accuracy": (hits, weights.sum())}


def weights(batch: Batch) -> dict[str, jax.Array]:
    """Of a whole batch: what the sum of each loss is divided by. The losses together are what is trained."""
    if "mlm_weights" in batch:
        return {"mlm_loss": batch["mlm_weights"].sum(), "nsp_loss": batch["nsp_weights"].sum()}
    return {"loss": batch["weights"].sum()}


def mean(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """sum / weight; 0 where nothing was weighed."""
    total, weight = pair
    return total / jnp.maximum(weight, 1)


@jax.custom_vjp
def decoded_cross_entropy(
    x_NxD: jax.Array, decoder_VxD: jax.Array, bias_V: jax.Array, labels_N: jax.Array, weights_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of cross-entropy and hits of `decode(x, decoder, bias)`; float32 scalars.

    Where a gradient is wanted, it is made beside the value: no [N, V] array waits for the backward pass, and
    none is computed twice. Weights and labels have no gradient, nor have the hits.
    """
    return _weighted(*_scores(decode(x_NxD, decoder_VxD, bias_V), labels_N), weights_N)


def _decoded_cross_entropy_forward(
    x_NxD: jax.Array, decoder_VxD: jax.Array, bias_V: jax.Array, labels_N: jax.Array, weights_N: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    logits_NxV = decode(x_NxD, decoder_VxD, bias_V)
    nll_N, hit_N = _scores(logits_NxV, labels_N)
    chosen_N = jnp.take_along_axis(logits_NxV, labels_N[:, None], axis=-1)[:, 0]
    probs_NxV = jnp.exp(logits_NxV - (nll_N + chosen_N)[:, None])
    is_label_NxV = jnp.arange(len(decoder_VxD))[None, :] == labels_N[:, None]
    by_logit_NxV = (jnp.where(is_label_NxV, probs_NxV - 1, probs_NxV) * weights_N[:, None]).astype(
        x_NxD.dtype
    )
    with precision(x_NxD.dtype):
        by_x_NxD = by_logit_NxV @ decoder_VxD.astype(x_NxD.dtype)
        by_decoder_VxD = jnp.einsum(
            "nv,nd->vd", by_logit_NxV, x_NxD, preferred_element_type=decoder_VxD.dtype
        )
    gradients = by_x_NxD, by_decoder_VxD, by_logit_NxV.sum(axis=0, dtype=bias_V.dtype)
    return _weighted(nll_N, hit_N, weights_N), gradients


def _decoded_cross_entropy_backward(
    gradients: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    by_loss = cotangents[0]
    return *(gradient * by_loss.astype(gradient.dtype) for gradient in gradients), None, None


decoded_cross_entropy.defvjp(_decoded_cross_entropy_forward, _decoded_cross_entropy_backward)


def _scores(logits_NxC: jax.Array, labels_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy, and 1.0 where no class is above the label's."""
    chosen_N = _chosen(logits_NxC, labels_N)
    nll_N = jax.nn.logsumexp(logits_NxC, axis=-1) - chosen_N
    return nll_N, (chosen_N >= logits_NxC.max(axis=-1)).astype(jnp.float32)


def _is_label(logits_NxC: jax.Array, labels_N: jax.Array) -> jax.Array:
    return jnp.arange(logits_NxC.shape[1])[None, :] == labels_N[:, None]


def _chosen(logits_NxC: jax.Array, labels_N: jax.Array) -> jax.Array:
    """The label's logit. A sum and no lookup: the classes may lie on several devices."""
    return jnp.where(_is_label(logits_NxC, labels_N), logits_NxC, 0).sum(axis=-1)


def _weighted(nll_N: jax.Array, hit_N: jax.Array, weights_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (nll_N * weights_N).sum(), (hit_N * weights_N).sum()


def _pairs(name: str, loss: jax.Array, hits: jax.Array, weight: jax.Array) -> Sums:
    return {f"{name}_loss": (loss, weight), f"{name}_accuracy": (hits, weight)}
