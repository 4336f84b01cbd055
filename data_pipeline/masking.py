"""Stored rows to masked batches: tf.data graph ops, a whole batch at a time, no state.

Every random choice is a hash of (seed, position, column), where a position is the place of a row in the
endless stream of training rows. So a batch does not depend on hosts, threads or what was read before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_pipeline.config import MaskingConfig
from data_pipeline.special_tokens import SpecialTokens

Tensors = dict[str, tf.Tensor]

SPAN_P, SPAN_WORDS = 0.2, 10
"""A span has n words, 1 to SPAN_WORDS, with a probability proportional to (1 - SPAN_P)^n; 3.8 in the mean. As
Joshi et al. (2020), section 3.1, and PairWithSpanMaskingScheme in facebookresearch/SpanBERT."""


def mask(
    tokens: tf.Tensor,
    lengths: tf.Tensor,
    positions: tf.Tensor,
    *,
    step: tf.Tensor,
    config: MaskingConfig,
    seed: int,
    vocab_size: int,
    special_tokens: SpecialTokens,
    word_marks: tuple[np.ndarray, np.ndarray] | None,
) -> Tensors:
    """Chooses tokens to predict: the masked token_ids, mlm_positions and mlm_targets of the batch contract.

    As Devlin et al. (2018) and create_masked_lm_predictions in google-research/bert: a share of a row's
    length, at least 1, at most K. Special tokens count in the length and are never chosen; nor is a special
    token ever the random replacement.

    Words are taken, the best score first, each that still fits. With the strategy "token" every token is a
    word; with "whole_word" all pieces of a word are one; with "span" the words of a span also share a score,
    and its tokens a fate: all become [MASK], all random tokens, or all stay.

    Args:
      tokens: [B, S] int32, anything after the end.
      lengths: [B] int32, tokens of each row.
      positions: [B] int64, place of each row in the stream.
      step: int64 scalar, for the schedule of the rate.
      word_marks: [V] bool twice, `Tokenizer.word_marks`; the strategy "token" needs none.
    """
    is_special = np.zeros(vocab_size, bool)
    is_special[special_tokens.ids] = True
    inside = tf.range(tf.shape(tokens)[1]) < lengths[:, tf.newaxis]
    tokens = tf.where(inside, tokens, special_tokens.pad)
    size = config.max_predictions
    by_token, by_span = config.strategy == "token", config.strategy == "span"

    words = _words(
        inside & ~tf.gather(tf.constant(is_special), tokens),
        None if by_token else _joined(tokens, word_marks),
    )
    hashed = _hash(seed, positions, words.start)
    score = _high_31_bits(hashed)
    if by_span:
        score = _span_scores(score, words.length, reach=_span_reach(hashed))
    length = tf.cast(lengths[:, tf.newaxis], tf.float32)
    wanted = tf.cast(tf.round(length * tf.cast(rate_at(step, config=config), tf.float32)), tf.int32)
    wanted = tf.clip_by_value(wanted, 1, size)
    # Of words of one token the first K always fit.
    tries = size if by_token else tf.shape(tokens)[1]
    chosen, valid = _select_words(words, score, wanted, size=size, tries=tries)
    targets = tf.gather(tokens, chosen, batch_dims=1)

    own = shared = _hash(seed, positions, chosen)
    if by_span:
        # The score of its anchor stands for a span: of 31 bits, it is hardly ever that of another one.
        anchor = tf.gather(score, tf.gather(words.number, chosen, batch_dims=1), batch_dims=1)
        shared = _hash(seed, positions, anchor)
    random = _random_tokens(own, np.flatnonzero(~is_special))
    replacement = _replacement(shared, targets, random, special_tokens.mask, config=config)
    # An unused slot writes the token of column 0, which is [CLS] and never chosen, over itself.
    replacement = tf.where(valid, replacement, tokens[:, :1])
    row = tf.broadcast_to(tf.range(tf.shape(tokens)[0])[:, tf.newaxis], tf.shape(chosen))
    masked = tf.tensor_scatter_nd_update(tokens, tf.stack([row, chosen], axis=2), replacement)
    return {
        "token_ids": masked,
        "mlm_positions": chosen,  # 0 where it is not valid
        "mlm_targets": tf.where(valid, targets, 0),
    }


def rate_at(step: tf.Tensor, *, config: MaskingConfig) -> tf.Tensor:
    """float64 scalar: linear from `config.rate` at step 0 to `config.final_rate` at `config.rate_steps`."""
    if config.final_rate is None:
        return tf.constant(config.rate, tf.float64)
    done = tf.minimum(tf.cast(step, tf.float64) / config.rate_steps, 1.0)
    return config.rate + (config.final_rate - config.rate) * done


class _Words(NamedTuple):
    """The words of each row from left to right. A token that is never chosen is a word of length 0."""

    number: tf.Tensor
    """[B, S] int32: by column, the word that it is in."""
    start: tf.Tensor
    """[B, S] int32: by word, its first column; S past the last word."""
    length: tf.Tensor
    """[B, S] int32: by word, its tokens; 0 past the last word."""


def _joined(tokens: tf.Tensor, word_marks: tuple[np.ndarray, np.ndarray] | None) -> tf.Tensor:
    """[B, S] bool: tokens that are of the same word as the one before them, by their pieces."""
    assert word_marks is not None
    continues, ends = word_marks
    joined = tf.gather(tf.constant(continues), tokens)
    if not ends.any():  # in most vocabularies
        return joined
    ended = tf.gather(tf.constant(ends), tokens)
    return joined & ~tf.pad(ended[:, :-1], [[0, 0], [1, 0]])


def _words(candidate: tf.Tensor, continues: tf.Tensor | None) -> _Words:
    """Words are runs of candidates of which only the first does not continue a word.

    Behind a special token any candidate starts a word: if a word was cut there, that is what is left of it.
    So no word goes from one packed sequence into the next one, which starts with [CLS].

    Args:
      candidate: [B, S] bool, tokens that may be chosen.
      continues: [B, S] bool, tokens that continue a word; None if every token is a word.
    """
    size = tf.shape(candidate)[1]
    column = tf.broadcast_to(tf.range(size), tf.shape(candidate))
    if continues is None:
        return _Words(number=column, start=column, length=tf.cast(candidate, tf.int32))
    joined = candidate & continues & tf.pad(candidate[:, :-1], [[0, 0], [1, 0]])
    number = tf.cumsum(tf.cast(~joined, tf.int32), axis=1) - 1
    start = tf.searchsorted(number, column)  # the first column with this number or, past the last word, none
    end = tf.pad(start[:, 1:], [[0, 0], [0, 1]], constant_values=size)
    is_word = tf.gather(candidate, tf.minimum(start, size - 1), batch_dims=1)
    return _Words(number, start, length=tf.where(is_word, end - start, 0))


def _span_scores(score: tf.Tensor, length: tf.Tensor, *, reach: tf.Tensor) -> tf.Tensor:
    """[B, S] int32: by word, the score of the best span that covers it.

    Every word is the anchor of a span: itself and the words after it, `reach` in all, but none behind a
    special token. As in SpanBERT, an anchor that a better span covers has no span of its own (`if anchor in
    mask: continue`).

    Args:
      score: [B, S] int32, by anchor.
      length: [B, S] int32, tokens of each word, 0 for what is none.
      reach: [B, S] int32, by anchor, 1 to SPAN_WORDS.
    """

    def back(x: tf.Tensor) -> list[tf.Tensor]:
        """What `x` is 1, 2, ... words before each word, for all distances that a span can have."""
        padded = tf.pad(x, [[0, 0], [SPAN_WORDS, 0]])
        return [padded[:, SPAN_WORDS - d : -d] for d in range(1, SPAN_WORDS)]

    # How many gaps there are before a word. If there are as many before its anchor, there is none between.
    gaps = tf.cumsum(tf.cast(length == 0, tf.int32), axis=1, exclusive=True)
    covered = [
        tf.cast((words > d) & (gaps_there == gaps), tf.int32)
        for d, (words, gaps_there) in enumerate(zip(back(reach), back(gaps), strict=True), 1)
    ]

    def cover(best: tf.Tensor) -> tf.Tensor:
        anchors = score * tf.cast(best == score, tf.int32)  # a better span covers the others
        return functools.reduce(tf.maximum, map(tf.multiply, back(anchors), covered), score)

    # What is best for a word depends on the words before it only, so each round decides at least one more.
    return _fixed_point(cover, score)


def _span_reach(hashed: tf.Tensor) -> tf.Tensor:
    """[B, S] int32: words in the span of each anchor, from its hash, [B, S] uint64."""
    shares = (1 - SPAN_P) ** np.arange(SPAN_WORDS)
    limits = np.cumsum(shares[:-1]) / np.sum(shares) * 2**31
    uniform = _high_31_bits(_rehash(hashed, _REACH))
    passed = tf.searchsorted(limits.astype(np.int32), tf.reshape(uniform, [-1]), side="right")
    return 1 + tf.reshape(passed, tf.shape(hashed))


def _select_words(
    words: _Words, score: tf.Tensor, wanted: tf.Tensor, *, size: int, tries: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes words, the best score first, each that still fits, as create_masked_lm_predictions does.

    Args:
      score: [B, S] int32, by word; of equal ones the left one is first.
      wanted: [B, 1] int32, tokens to take at most.
      size: K, at least `wanted`.
      tries: words to look at, S for all.

    Returns:
      Columns of the tokens taken, [B, K] int32 in order, 0 in unused slots; and the used slots, [B, K] bool.
    """
    order = tf.math.top_k(tf.where(words.length > 0, score, -1), k=tries).indices

    def leave_out(length: tf.Tensor) -> tf.Tensor:
        """All words up to the first one that does not fit are taken. From there on, none that is longer than
        what is left can be."""
        total = tf.cumsum(length, axis=1)
        taken = total <= wanted
        left = wanted - tf.reduce_max(tf.where(taken, total, 0), axis=1, keepdims=True)
        return tf.where(taken | (length <= left), length, 0)

    length = _fixed_point(leave_out, tf.gather(words.length, order, batch_dims=1))
    end = tf.cumsum(length, axis=1)
    # With the words taken laid end to end, slot k is in the first one that ends behind it.
    slot = tf.broadcast_to(tf.range(size), [tf.shape(score)[0], size])
    place = tf.minimum(tf.searchsorted(end, slot, side="right"), tries - 1)
    start = tf.gather(words.start, tf.gather(order, place, batch_dims=1), batch_dims=1)
    column = start + slot - tf.gather(end - length, place, batch_dims=1)
    valid = slot < end[:, -1:]
    column = tf.sort(tf.where(valid, column, tf.int32.max), axis=1)
    return tf.where(valid, column, 0), valid


def _replacement(
    hashed: tf.Tensor, kept: tf.Tensor, random: tf.Tensor, mask_id: int, *, config: MaskingConfig
) -> tf.Tensor:
    """[B, K] int32: `mask_id`, a token of `random` or one of `kept`, in the shares of `config`."""
    uniform = _high_31_bits(_rehash(hashed, _REPLACEMENT))
    mask_limit = int(config.mask_fraction * 2**31)
    random_limit = int((config.mask_fraction + config.random_fraction) * 2**31)
    replacement = tf.where(uniform < min(random_limit, 2**31 - 1), random, kept)
    return tf.where(uniform < min(mask_limit, 2**31 - 1), mask_id, replacement)


def _random_tokens(hashed: tf.Tensor, tokens: np.ndarray) -> tf.Tensor:
    """[B, K] int32, from `tokens`. Other bits of the hash than those that `_replacement` looks at."""
    low = tf.bitwise.bitwise_and(_rehash(hashed, _REPLACEMENT), np.uint64(2**31 - 1))
    return tf.gather(tf.constant(tokens.astype(np.int32)), tf.cast(low, tf.int32) % len(tokens))


def _fixed_point(change: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """`change`, applied to `x` again and again until nothing changes."""
    return tf.while_loop(
        lambda new, old: tf.reduce_any(new != old), lambda new, _: (change(new), new), (change(x), x)
    )[0]


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_REPLACEMENT, _REACH = _GOLDEN, np.uint64(0x3C6EF372FE94F82A)  # once and twice, modulo 2^64


def _hash(seed: int, positions: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """[B, N] uint64, uniform and independent between seeds, positions and columns.

    Args:
      positions: [B] int64.
      columns: [N] or [B, N] int32.
    """
    seeded = _mix(tf.constant(seed % 2**64, tf.uint64) + _GOLDEN)
    by_row = _mix(seeded + tf.cast(positions, tf.uint64) * _GOLDEN)
    return _mix(by_row[:, tf.newaxis] + (tf.cast(columns, tf.uint64) + np.uint64(1)) * _GOLDEN)


def _rehash(x: tf.Tensor, purpose: np.uint64) -> tf.Tensor:
    """Another hash of what `x` is the hash of: the choice of a token says nothing about its replacement."""
    return _mix(x + purpose)


def _mix(x: tf.Tensor) -> tf.Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014, figure 15)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(shift))) * np.uint64(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(31)))


def _high_31_bits(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(x, np.uint64(33)), tf.int32)
