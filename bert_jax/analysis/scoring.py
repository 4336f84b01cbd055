"""Two closer looks at a pretrained encoder: accuracy by token frequency, and pseudo-perplexity.

The mean accuracy of masked tokens is mostly that of a few frequent pieces; buckets by frequency show the
others. And it hides 15 % of a row at once; the pseudo-log-likelihood of a sequence (Salazar et al. 2020,
"Masked Language Model Scoring", equation 1) hides each token by itself.

Shapes in names: V vocabulary, N tokens, J masked copies of rows; of `data_pipeline.batch` B, S, P.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from bert_jax.interop.generator import masked_lm
from bert_jax.models.encoder import Batch as DeviceBatch
from bert_jax.objectives import mlm
from bert_jax.ops.precision import precision
from bert_jax.parallel import sharding
from bert_jax.run.evaluate import compile_eval_step, open_checkpoint
from bert_jax.training.network import Params, modules
from bert_jax.training.run_spec import RunSpec
from data_pipeline.batch import Batch, unpack
from data_pipeline.errors import UserError
from data_pipeline.inspection import table, token_counts
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.storage import dataset_folder

BUCKETS = ("0-25 %", "25-50 %", "50-75 %", "75-100 %", "never seen")
"""The most frequent pieces, which together make the first quarter of the training tokens; and so on."""


class Bucket(NamedTuple):
    """Pieces of like frequency, and the masked held-out tokens that are among them."""

    name: str
    pieces: int
    predictions: int
    accuracy: float
    """NaN, like the loss, where there is no prediction."""
    loss: float
    """Nats a prediction."""


class Scores(NamedTuple):
    buckets: list[Bucket]
    majority_mlm_accuracy: float
    """Accuracy on all held-out tokens of always giving the piece that is most frequent in training."""
    log_likelihood: float
    """Sum of pseudo-log-likelihoods, nats."""
    tokens: int
    """Tokens in that sum."""


def score_workdir(spec: RunSpec, *, workdir: Path, step: int, rows: int) -> Scores:
    """Scores the checkpoint of `step`; the pseudo-perplexity on `rows` held-out rows at most.

    Raises:
      UserError: the run trains no masked-LM head; or as `open_checkpoint`.
    """
    if not (spec.network.generator or spec.network).objective.PREDICTS_TOKENS:
        raise UserError(f"{workdir} trains {spec.network.settings.kind}, which predicts no words to score")
    with open_checkpoint(spec, workdir=workdir, step=step) as (params, _, mesh, loader):
        network, params = masked_lm(spec.network, params)
        spec = dataclasses.replace(spec, network=network)
        special_tokens = loader.manifest.special_tokens
        train, held_out = (
            token_counts(dataset_folder(spec.config.data.dir), split) for split in ("train", "validation")
        )
        special_ids = special_tokens.ids
        train[special_ids] = held_out[special_ids] = 0
        buckets_V = bucket_of_piece(train, special_ids=special_ids)
        buckets = by_frequency(spec, params, buckets_V, mesh=mesh, loader=loader)
        unmasked = read_unmasked(spec, loader.manifest, rows=rows)
        pseudo = pseudo_log_likelihood(spec, params, unmasked, special_tokens=special_tokens, mesh=mesh)
    return Scores(buckets, float(held_out[train.argmax()] / held_out.sum()), *pseudo)


def bucket_of_piece(counts_V: np.ndarray, *, special_ids: Sequence[int]) -> np.ndarray:
    """[V] int32: the place in BUCKETS of every piece, -1 for special ones.

    Args:
      counts_V: in training; 0 for special pieces.
    """
    order = np.argsort(-counts_V, kind="stable")
    more_frequent = np.cumsum(counts_V[order]) - counts_V[order]
    buckets_V = np.empty(len(counts_V), np.int32)
    buckets_V[order] = (len(BUCKETS) - 1) * more_frequent // max(1, counts_V.sum())
    buckets_V[counts_V == 0] = len(BUCKETS) - 1
    buckets_V[list(special_ids)] = -1
    return buckets_V


def by_frequency(
    spec: RunSpec, params: Params, buckets_V: np.ndarray, *, mesh: Mesh, loader: Iterable[Batch]
) -> list[Bucket]:
    """Accuracy and loss of the masked tokens that `evaluate` predicts, by the bucket of the true piece."""
    step = jax.jit(functools.partial(bucket_sums, spec), out_shardings=sharding.replicated(mesh))
    totals = np.zeros((len(BUCKETS), 3))
    train = spec.config.train
    for batch in islice(loader, train.eval_batches):
        on_devices = sharding.global_batch(batch, mesh, batch_size=train.global_batch_size)
        totals += jax.device_get(step(params, on_devices, buckets_V))
    return [
        Bucket(name, int((buckets_V == place).sum()), int(weight), *(np.array(sums) / (weight or np.nan)))
        for place, (name, (weight, *sums)) in enumerate(zip(BUCKETS, totals, strict=True))
    ]


def bucket_sums(spec: RunSpec, params: Params, batch: DeviceBatch, buckets_V: jax.Array) -> jax.Array:
    """[buckets, 3] float32 of a held-out batch: predictions, hits and nats.

    The sums of `eval_step` once for each bucket; the compiler makes their logits once.
    """
    batch = unpack(batch)
    with precision(spec.network.model.dtype):
        both = modules(spec.network, params)
        hidden_BxSxD = both.encoder.encode(batch, kernels=spec.kernels)
        inputs = mlm.decoder_inputs(both.objective, both.encoder, hidden_BxSxD, batch["mlm_positions"])
        found = []
        for place in range(len(BUCKETS)):
            weights_BxK = jnp.where(buckets_V[batch["mlm_targets"]] == place, batch["mlm_weights"], 0)
            sums = mlm.token_sums(inputs, {**batch, "mlm_weights": weights_BxK})
            found.append(jnp.stack([weights_BxK.sum(), sums["mlm_accuracy"][0], sums["mlm_loss"][0]]))
    return jnp.stack(found)


def read_unmasked(spec: RunSpec, manifest: Manifest, *, rows: int) -> Batch:
    """Held-out rows as they were before masking, all in one batch.

    They are spread evenly over the split: neighbours come from one document, and then from one source.
    """
    count = manifest.rows["validation"]
    rows = min(rows, count)
    spread = [row * count // rows for row in range(rows)]
    with Loader(spec.config.data, split="validation", batch_size=count, rows=spread) as loader:
        batch = unpack(next(loader))
    token_ids_BxS = batch["token_ids"].copy()
    row_N, slot_N = np.nonzero(batch["mlm_weights"])
    token_ids_BxS[row_N, batch["mlm_positions"][row_N, slot_N]] = batch["mlm_targets"][row_N, slot_N]
    return batch | {"token_ids": token_ids_BxS}


def pseudo_log_likelihood(
    spec: RunSpec, params: Params, rows: Batch, *, special_tokens: SpecialTokens, mesh: Mesh
) -> tuple[float, int]:
    """The sum in nats over unmasked rows (Salazar et al., equation 1), and over how many tokens.

    Special tokens are neither masked nor counted; [UNK] is one of them, as in training.
    """
    step = compile_eval_step(spec, mesh)
    batch_size = spec.config.train.global_batch_size
    local = list(sharding.local_rows(mesh, batch_size))
    total, tokens = 0.0, int(_ordinary(rows, special_tokens).sum())
    with tqdm(total=tokens, unit="token", desc="pseudo-perplexity", dynamic_ncols=True, disable=None) as bar:
        for batch in masked_in_turn(rows, special_tokens=special_tokens, batch_size=batch_size):
            mine = {name: array[local] for name, array in batch.items()}
            sums = step(params, sharding.global_batch(mine, mesh, batch_size=batch_size))
            total -= float(sums["mlm_loss"][0])
            bar.update(int(batch["mlm_weights"].sum()))
    return total, tokens


def masked_in_turn(rows: Batch, *, special_tokens: SpecialTokens, batch_size: int) -> Iterator[Batch]:
    """Copies of rows, each with one token of every packed sequence masked, until each token was.

    Sequences of a row do not see each other, so that their tokens can be masked at once: K is P here.
    """
    S, P = rows["token_ids"].shape[1], rows["cls_positions"].shape[1]
    ordinary_BxS = _ordinary(rows, special_tokens)
    row_N, column_N = np.nonzero(ordinary_BxS)
    slot_N = rows["segment_ids"][ordinary_BxS] - 1
    _, first, sequence_N = np.unique(row_N * P + slot_N, return_index=True, return_inverse=True)
    turn_N = np.arange(len(row_N)) - first[sequence_N]  # its index within its sequence
    copies_J, copy_N = np.unique(row_N * S + turn_N, return_inverse=True)
    positions_JxP = np.zeros((len(copies_J), P), np.int32)
    weights_JxP = np.zeros((len(copies_J), P), np.float32)
    positions_JxP[copy_N, slot_N] = column_N
    weights_JxP[copy_N, slot_N] = 1

    for start in range(0, len(copies_J), batch_size):
        copies = np.arange(start, start + batch_size)
        exists = copies < len(copies_J)
        copies = np.where(exists, copies, start)
        batch = {name: array[copies_J[copies] // S] for name, array in rows.items()}
        positions, weights = positions_JxP[copies], np.where(exists[:, None], weights_JxP[copies], 0)
        targets = np.take_along_axis(batch["token_ids"], positions, axis=1)
        copy, slot = np.nonzero(weights)
        batch["token_ids"][copy, positions[copy, slot]] = special_tokens.mask
        yield batch | {"mlm_positions": positions, "mlm_targets": targets, "mlm_weights": weights}


def _ordinary(rows: Batch, special_tokens: SpecialTokens) -> np.ndarray:
    """[B, S] bool: tokens that can be masked."""
    return (rows["segment_ids"] > 0) & ~np.isin(rows["token_ids"], special_tokens.ids)


def report(scores: Scores) -> Iterator[str]:
    """Lines for a terminal."""
    lines = [["training tokens", "pieces", "predictions", "mlm_accuracy", "mlm_loss"]]
    for name, pieces, predictions, *means in scores.buckets:
        shown = [f"{mean:.4f}" if predictions else "" for mean in means]
        lines.append([name, f"{pieces:,}", f"{predictions:,}", *shown])
    yield from table(lines)
    yield f"{'majority_mlm_accuracy':22s} {scores.majority_mlm_accuracy:.4f}"
    yield ""
    nats = -scores.log_likelihood / scores.tokens
    yield f"{'pseudo_perplexity':22s} {math.exp(nats):.4f}"
    yield f"{'nats_a_token':22s} {nats:.4f}"
    yield f"{'tokens_scored':22s} {scores.tokens:,}"
