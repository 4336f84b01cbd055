"""Analytic cost of a training step, and the peak rates of known chips."""

from __future__ import annotations

from bert_jax.config import Config

PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Dense bf16 FLOP/s of a chip, from its maker's data sheet; keys start jax.Device.device_kind."""


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


def peak_flops(device_kind: str) -> float | None:
    """Peak bf16 FLOP/s of a chip, or None where it is not known (CPUs)."""
    known = [peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name)]
    return known[0] if known else None
