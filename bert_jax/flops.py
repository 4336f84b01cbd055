"""Analytic cost of a training step."""

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
    mlm = d.masking.max_predictions * 2 * (D * D + D * m.padded_vocab_size)
    nsp = d.max_sequences_per_row * 2 * (D * D + 2 * D)
    return 3.0 * config.train.global_batch_size * (encoder + mlm + nsp)
