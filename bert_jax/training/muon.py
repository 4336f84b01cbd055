"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, and Adam for the rest."""

from __future__ import annotations

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from bert_jax.training.network import Network, Parameter, Params, parameters_in_state

MOMENTUM = 0.95
"""Jordan et al. (2024) and Liu et al. (2025), with Nesterov's look ahead."""

ADAM_RMS = 0.2
"""The root mean square of an update of AdamW, by Liu et al. (2025, arXiv 2502.16982, section 2.2)."""


def muon_for_matrices(
    network: Network, *, others: optax.GradientTransformation, mu_dtype: str
) -> optax.GradientTransformationExtraArgs:
    """Updates of matrices by Muon, the others by Adam; as long as Adam's, so that one rate serves both."""
    declared = parameters_in_state(network)
    labels = jax.tree.map(lambda p: "adam" if dimensions(p) is None else "muon", declared)
    numbers = jax.tree.map(lambda p: dimensions(p) or optax.MaskedNode(), declared)
    muon = scale_by_muon(beta=MOMENTUM, mu_dtype=mu_dtype, weight_dimension_numbers=numbers)
    return optax.partition({"muon": optax.chain(muon, _as_long_as_adams(numbers)), "adam": others}, labels)


def dimensions(parameter: Parameter) -> MuonDimensionNumbers | None:
    """The two dimensions of a matrix; the layers of a stack and the parts of a fused product are apart.

    None where Muon is not for it: vectors; embeddings, the decoder tied to them, and classifiers of a task,
    which multiply no dense input or give no dense output (Jordan et al. 2024).
    """
    axes = parameter.logical_axes
    inner = [i for i, axis in enumerate(axes) if axis not in ("layers", "parts")]
    if parameter.depth == 0 or len(inner) != 2 or {"vocab", "labels"} & set(axes):
        return None
    return MuonDimensionNumbers(*inner)


def _as_long_as_adams(numbers: Params) -> optax.GradientTransformation:
    """An orthogonal matrix of [I, O] has the RMS 1 / sqrt(max(I, O)) (Liu et al. 2025, lemma 1)."""

    def scale(x: jax.Array, of: MuonDimensionNumbers) -> jax.Array:
        return x * (ADAM_RMS * max(x.shape[of.reduction_axis], x.shape[of.output_axis]) ** 0.5)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, updates, numbers))
