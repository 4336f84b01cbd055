"""Cross-entropy, accuracy and divergence: of logits, and of logits that no backward pass has to wait for.

Shapes in names: N predictions of a batch, C classes, V padded vocabulary, D hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.ops.precision import precision
from bert_jax.ops.shapes import along_last_axis


def cross_entropy(
    logits_NxC: jax.Array, labels_N: jax.Array, weights_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of cross-entropy, in nats, and of hits; float32 scalars."""
    return _weighted(*_scores(logits_NxC, labels_N), weights_N)


def decode(x: jax.Array, decoder_VxD: jax.Array, bias_V: jax.Array) -> jax.Array:
    """[..., D] -> [..., V] float32 logits: a product in the dtype of x, summed in float32."""
    with precision(x.dtype):
        logits = jnp.einsum(
            "...d,vd->...v", x, decoder_VxD.astype(x.dtype), preferred_element_type=jnp.float32
        )
    return logits + along_last_axis(bias_V, logits)


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
    is_label_NxV = _is_label(logits_NxV, labels_N)
    grad_logits_NxV = (jnp.where(is_label_NxV, probs_NxV - 1, probs_NxV) * weights_N[:, None]).astype(
        x_NxD.dtype
    )
    gradients = _decoded_gradients(grad_logits_NxV, x_NxD, decoder_VxD, bias_V)
    return _weighted(nll_N, hit_N, weights_N), gradients


def _decoded_cross_entropy_backward(
    residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    return *_scaled(residuals, cotangents[0]), None, None


decoded_cross_entropy.defvjp(_decoded_cross_entropy_forward, _decoded_cross_entropy_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def decoded_divergence(
    temperature: float,
    x_NxD: jax.Array,
    decoder_VxD: jax.Array,
    bias_V: jax.Array,
    teacher_NxV: jax.Array,
    weights_N: jax.Array,
) -> jax.Array:
    """Weighted sum of the Kullback-Leibler divergence of `decode(x, decoder, bias)` from a teacher's logits.

    A float32 scalar, in nats. Both logits are divided by the temperature, and what comes out is multiplied by
    its square, so that gradients are as large at any temperature (Hinton et al. 2015, section 2). They are
    made as those of `decoded_cross_entropy`; teacher and weights have none.
    """
    return _divergence(temperature, decode(x_NxD, decoder_VxD, bias_V), teacher_NxV, weights_N)[0]


def _divergence(
    temperature: float, logits_NxV: jax.Array, teacher_NxV: jax.Array, weights_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The divergence, and its gradient by the logits."""
    log_probs_NxV, log_teacher_NxV = (
        jax.nn.log_softmax(logits / temperature, axis=-1) for logits in (logits_NxV, teacher_NxV)
    )
    probs_NxV, teacher_probs_NxV = jnp.exp(log_probs_NxV), jnp.exp(log_teacher_NxV)
    # Where the vocabulary is padded both logarithms may be infinite.
    nats_NxV = jnp.where(teacher_probs_NxV > 0, teacher_probs_NxV * (log_teacher_NxV - log_probs_NxV), 0)
    gradient_NxV = temperature * (probs_NxV - teacher_probs_NxV) * weights_N[:, None]
    return temperature**2 * (nats_NxV.sum(axis=-1) * weights_N).sum(), gradient_NxV


def _decoded_divergence_forward(
    temperature: float,
    x_NxD: jax.Array,
    decoder_VxD: jax.Array,
    bias_V: jax.Array,
    teacher_NxV: jax.Array,
    weights_N: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    logits_NxV = decode(x_NxD, decoder_VxD, bias_V)
    total, grad_logits_NxV = _divergence(temperature, logits_NxV, teacher_NxV, weights_N)
    return total, _decoded_gradients(grad_logits_NxV.astype(x_NxD.dtype), x_NxD, decoder_VxD, bias_V)


def _decoded_divergence_backward(
    temperature: float, residuals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[Any, ...]:
    return *_scaled(residuals, cotangent), None, None


decoded_divergence.defvjp(_decoded_divergence_forward, _decoded_divergence_backward)


def _decoded_gradients(
    grad_logits_NxV: jax.Array, x_NxD: jax.Array, decoder_VxD: jax.Array, bias_V: jax.Array
) -> tuple[jax.Array, ...]:
    """Gradients by x, decoder and bias from that by the logits, which has the dtype of x."""
    with precision(x_NxD.dtype):
        grad_x_NxD = grad_logits_NxV @ decoder_VxD.astype(x_NxD.dtype)
        grad_decoder_VxD = jnp.einsum(
            "nv,nd->vd", grad_logits_NxV, x_NxD, preferred_element_type=decoder_VxD.dtype
        )
    return grad_x_NxD, grad_decoder_VxD, grad_logits_NxV.sum(axis=0, dtype=bias_V.dtype)


def _scaled(residuals: tuple[jax.Array, ...], cotangent: jax.Array) -> Iterator[jax.Array]:
    """The residuals are the gradients of the loss already; the cotangent of the loss scales them."""
    return (gradient * cotangent.astype(gradient.dtype) for gradient in residuals)


def _scores(logits_NxC: jax.Array, labels_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy, and 1.0 where no class is above the label's."""
    chosen_N = _label_logits(logits_NxC, labels_N)
    nll_N = jax.nn.logsumexp(logits_NxC, axis=-1) - chosen_N
    return nll_N, (chosen_N >= logits_NxC.max(axis=-1)).astype(jnp.float32)


def _is_label(logits_NxC: jax.Array, labels_N: jax.Array) -> jax.Array:
    return jnp.arange(logits_NxC.shape[1])[None, :] == labels_N[:, None]


def _label_logits(logits_NxC: jax.Array, labels_N: jax.Array) -> jax.Array:
    """The label's logit. A sum and no lookup: the classes may lie on several devices."""
    return jnp.where(_is_label(logits_NxC, labels_N), logits_NxC, 0).sum(axis=-1)


def _weighted(nll_N: jax.Array, hit_N: jax.Array, weights_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (nll_N * weights_N).sum(), (hit_N * weights_N).sum()
