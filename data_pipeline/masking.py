"""Stored rows to masked batches: tf.data graph ops, a whole batch at a time, no state.

Every random choice is a hash of (seed, position, column), where a position is the place of a row in the
endless stream of training rows. So a batch does not depend on hosts, threads or what was read before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from data_pipeline.config import MaskingConfig
from data_pipeline.instances import NO_LABEL

Tensors = dict[str, tf.Tensor]


def unpack(tokens: tf.Tensor, lengths: tf.Tensor, labels: tf.Tensor) -> Tensors:
    """Everything in a batch but the masks.

    Args:
      tokens: [B, S] int32, 0 after the end.
      lengths: [B, P, 2] int32, tokens of A and of B of each packed sequence, 0 for unused slots.
      labels: [B, P] int32, next-sentence labels.
    """
    ends = tf.cumsum(tf.reduce_sum(lengths, axis=2), axis=1)
    starts = ends - tf.reduce_sum(lengths, axis=2)
    middles = starts + lengths[:, :, 0]
    used = ends > starts

    column = tf.range(tf.shape(tokens)[1])[tf.newaxis, :]
    # Which packed sequence a column is in, from 0; past the end it is the last one.
    index = tf.reduce_sum(tf.cast(column[:, :, tf.newaxis] >= ends[:, tf.newaxis, :], tf.int32), axis=2)
    inside = column < ends[:, -1:]
    index = tf.where(inside, index, 0)
    start = tf.gather(starts, index, batch_dims=1)
    middle = tf.gather(middles, index, batch_dims=1)
    return {
        "token_ids": tokens,
        "segment_ids": tf.where(inside, index + 1, 0),
        "position_ids": tf.where(inside, column - start, 0),
        "token_type_ids": tf.cast(inside & (column >= middle), tf.int32),
        "cls_positions": tf.where(used, starts, 0),
        "nsp_labels": tf.where(used & (labels != NO_LABEL), labels, 0),
        "nsp_weights": tf.cast(used & (labels != NO_LABEL), tf.float32),
    }


def mask(
    rows: Tensors,
    positions: tf.Tensor,
    *,
    config: MaskingConfig,
    seed: int,
    vocab_size: int,
    special_ids: Sequence[int],
) -> Tensors:
    """Chooses tokens to predict and replaces them in `token_ids`; adds the three mlm arrays.

    As Devlin et al. (2018) and create_masked_lm_predictions in google-research/bert: `config.rate` of a row's
    length, at least 1, at most K. Special tokens count in the length and are never chosen; nor is a special
    token ever the random replacement.

    Args:
      rows: what `unpack` gives.
      positions: [B] int64, place of each row in the stream.
      special_ids: ids of [PAD], [UNK], [CLS], [SEP], [MASK].
    """
    is_special = np.zeros(vocab_size, bool)
    is_special[list(special_ids)] = True
    tokens = rows["token_ids"]
    inside = rows["segment_ids"] > 0
    size = config.max_predictions

    hashed = _hash(seed, positions, tf.range(tf.shape(tokens)[1]))
    candidate = inside & ~tf.gather(tf.constant(is_special), tokens)
    score, chosen = tf.math.top_k(tf.where(candidate, _high_31_bits(hashed), -1), k=size)
    length = tf.reduce_sum(tf.cast(inside, tf.float32), axis=1, keepdims=True)
    wanted = tf.clip_by_value(tf.cast(tf.round(length * config.rate), tf.int32), 1, size)
    valid = (score >= 0) & (tf.range(size) < wanted)
    # Columns in order, unused slots last.
    chosen = tf.sort(tf.where(valid, chosen, tf.int32.max), axis=1)
    valid = chosen < tf.int32.max
    chosen = tf.where(valid, chosen, 0)
    targets = tf.gather(tokens, chosen, batch_dims=1)

    # A second hash of the same three numbers, so that the choice of a token says nothing on its fate.
    fate = _mix(tf.gather(hashed, chosen, batch_dims=1) + _GOLDEN)
    uniform = _high_31_bits(fate)
    ordinary = tf.constant(np.flatnonzero(~is_special).astype(np.int32))
    low = tf.cast(tf.bitwise.bitwise_and(fate, tf.constant(2**31 - 1, tf.uint64)), tf.int32)
    random_token = tf.gather(ordinary, low % tf.size(ordinary))
    mask_limit = int(config.mask_fraction * 2**31)
    random_limit = int((config.mask_fraction + config.random_fraction) * 2**31)
    replacement = tf.where(uniform < min(random_limit, 2**31 - 1), random_token, targets)
    replacement = tf.where(uniform < min(mask_limit, 2**31 - 1), special_ids[4], replacement)
    # An unused slot writes the token of column 0, which is [CLS] and never chosen, over itself.
    replacement = tf.where(valid, replacement, tokens[:, :1])
    row = tf.broadcast_to(tf.range(tf.shape(tokens)[0])[:, tf.newaxis], tf.shape(chosen))
    masked = tf.tensor_scatter_nd_update(tokens, tf.stack([row, chosen], axis=2), replacement)
    return rows | {
        "token_ids": masked,
        "mlm_positions": chosen,
        "mlm_targets": tf.where(valid, targets, 0),
        "mlm_weights": tf.cast(valid, tf.float32),
    }


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _hash(seed: int, positions: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """[B, S] uint64, uniform and independent between seeds, positions and columns."""
    seeded = _mix(tf.constant(seed % 2**64, tf.uint64) + _GOLDEN)
    by_row = _mix(seeded + tf.cast(positions, tf.uint64) * _GOLDEN)
    return _mix(by_row[:, tf.newaxis] + (tf.cast(columns, tf.uint64) + np.uint64(1)) * _GOLDEN)


def _mix(x: tf.Tensor) -> tf.Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014, figure 15)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(shift))) * np.uint64(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(31)))


def _high_31_bits(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(x, np.uint64(33)), tf.int32)
