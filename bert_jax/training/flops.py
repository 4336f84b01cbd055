"""Analytic cost of a training step: floating-point operations, and bytes that wait for the backward pass."""

from __future__ import annotations

from bert_jax.config import Config


def train_step_flops(config: Config) -> float:
    """FLOPs of the matrix products of one step, forward and backward, without rematerialization.

    A multiply-add counts as two, and backward as twice forward (Kaplan et al. 2020, section 2.1). Every
    position counts, padding too, as it is computed; predictions count K a row.
    """
    m, d = config.model, config.data
    D, F, S, L = m.hidden_size, m.intermediate_size, d.sequence_length, m.num_hidden_layers
    encoder = L * S * (2 * (4 * D * D + 2 * D * F) + 4 * S * D)
    match m.head:
        case "pretraining":
            mlm = d.masking.max_predictions * 2 * (D * D + D * m.padded_vocab_size)
            nsp = d.max_sequences_per_row * 2 * (D * D + 2 * D)
            head = mlm + nsp
        case "classification" | "regression":
            head = 2 * (D * D + m.outputs * D)
        case "tokens" | "qa":
            head = S * 2 * m.outputs * D
    return 3.0 * config.train.global_batch_size * (encoder + head)


def kept_bytes(config: Config, *, rows: int, tensor: int = 1) -> float:
    """Bytes that the forward pass over a microbatch of `rows` leaves to the backward pass, on one device.

    Korthikanti et al. 2022 (arXiv 2205.05198), equation 1: the operands of each product, both sides of each
    nonlinearity, and dropout's masks, a byte an element, without rematerialization; and, for the gradient of
    the loss, the logits once. Attention kernels keep no probabilities.

    Args:
      tensor: size of the mesh axis, over which heads, the wide layer and the vocabulary are cut.
    """
    m, d = config.model, config.data
    D, F, S, H = m.hidden_size, m.intermediate_size, d.sequence_length, m.num_attention_heads
    size = 2 if m.dtype == "bfloat16" else 4
    hidden = (4 * D + (4 * D + 2 * F) / tensor) * size + (2 * D if m.hidden_dropout_prob else 0)
    probs = H * S / tensor * (2 * size + 1 if m.attention_probs_dropout_prob else size)
    if m.attention in ("cudnn", "splash"):
        probs = 0
    logits = d.masking.max_predictions * m.padded_vocab_size / tensor * 4
    return rows * (m.num_hidden_layers * S * (hidden + probs) + logits)
