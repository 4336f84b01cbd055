"""Masking: the papers' proportions, the contract's limits, and randomness that is really random."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import masking
from data_pipeline.batch import unpack
from data_pipeline.config import MaskingConfig
from data_pipeline.special_tokens import SpecialTokens

PAD, UNK, CLS, SEP, MASK = SPECIAL = [0, 1, 2, 3, 4]
SPECIAL_TOKENS = SpecialTokens(*SPECIAL)
VOCAB = 1000
B, S = 500, 128
STRATEGIES = ["token", "whole_word", "span"]
CONTINUES = np.arange(VOCAB) >= 700
"""Three of ten pieces continue a word."""
FULL = [[(S // 2, S // 2)]] * B
PACKED = [[(40, 30), (30, 20)]] * B


def unpacked(lengths, labels=None, tokens=None, columns=S):
    """Rows of packed sequences of given (A, B) lengths, with [CLS] and [SEP] in place."""
    lengths = np.asarray(lengths, np.int32)
    labels = np.zeros(lengths.shape[:2], np.int32) if labels is None else np.asarray(labels, np.int32)
    if tokens is None:
        tokens = np.zeros((len(lengths), columns), np.int32)
        rng = np.random.default_rng(0)
        for row, sequences in enumerate(lengths):
            start = 0
            for first, second in sequences:
                tokens[row, start : start + first + second] = rng.integers(5, VOCAB, first + second)
                if first:
                    tokens[row, start] = CLS
                    tokens[row, start + first - 1] = SEP
                    tokens[row, start + first + second - 1] = SEP
                start += first + second
    stored = {"token_ids": tokens, "segment_lengths": lengths, "pair_labels": labels}
    return stored | unpack(stored)


def masked(rows, *, seed=0, positions=None, step=0, continues=CONTINUES, **config):
    positions = np.arange(len(rows["token_ids"])) if positions is None else positions
    result = masking.mask(
        tf.constant(rows["token_ids"]),
        tf.constant(rows["segment_lengths"].sum(axis=(1, 2)), tf.int32),
        tf.constant(positions, tf.int64),
        step=tf.constant(step, tf.int64),
        config=MaskingConfig(**config),
        seed=seed,
        vocab_size=len(continues),
        special_tokens=SPECIAL_TOKENS,
        word_marks=(continues, np.zeros(len(continues), bool)),
    )
    return unpack(rows | {name: np.asarray(value) for name, value in result.items()})


def chosen_columns(batch) -> list[list[int]]:
    """The columns to predict of each row."""
    slots = zip(batch["mlm_positions"], batch["mlm_weights"], strict=True)
    return [columns[weights > 0].tolist() for columns, weights in slots]


def replaced(batch) -> np.ndarray:
    """[B, K]: what stands in the columns to predict."""
    return np.take_along_axis(batch["token_ids"], batch["mlm_positions"], axis=1)


def words_of(tokens: np.ndarray, continues: np.ndarray = CONTINUES) -> list[list[int]]:
    """Columns of each word of a row."""
    words: list[list[int]] = []
    for column, token in enumerate(tokens):
        if token in SPECIAL:
            continue
        if continues[token] and words and words[-1][-1] == column - 1:
            words[-1].append(column)
        else:
            words.append([column])
    return words


class Choice(NamedTuple):
    columns: list[int]
    spans: list[list[int]]
    """Columns of the spans that were drawn, as far as no better span has them; best first."""


def plain_choice(
    tokens: np.ndarray, *, strategy: str, wanted: int, seed: int, position: int, continues: np.ndarray
) -> Choice:
    """The same choice, word by word: what masking.py does for a batch at once."""
    words = words_of(tokens, continues if strategy != "token" else np.zeros(VOCAB, bool))
    columns = tf.constant([word[0] for word in words], tf.int32)
    hashes = masking._hash(seed, tf.constant([position], tf.int64), columns)
    reach = np.asarray(masking._span_reach(hashes))[0] if strategy == "span" else [1] * len(words)
    score = np.asarray(hashes)[0] >> np.uint64(33)
    spans: list[list[int]] = []
    covered: set[int] = set()
    for anchor in sorted(range(len(words)), key=lambda i: -int(score[i])):
        if anchor in covered:
            continue
        span = [anchor]
        while len(span) < reach[anchor] and span[-1] + 1 < len(words):
            if words[span[-1] + 1][0] != words[span[-1]][-1] + 1:
                break  # a special token is in between
            span.append(span[-1] + 1)
        spans.append([word for word in span if word not in covered])
        covered |= set(span)
    taken: list[int] = []
    for span in spans:
        for word in span:
            if len(taken) + len(words[word]) <= wanted:
                taken += words[word]
    return Choice(sorted(taken), [[column for word in span for column in words[word]] for span in spans])


def plain_choices(rows, *, strategy, seed=0, positions=None, rate=0.15, size, continues=CONTINUES):
    tokens, used = np.asarray(rows["token_ids"]), np.asarray(rows["segment_ids"]) > 0
    wanted = np.clip(np.round(used.sum(axis=1, dtype=np.float32) * np.float32(rate)), 1, size)
    positions = range(len(tokens)) if positions is None else positions
    return [
        plain_choice(row, strategy=strategy, wanted=int(n), seed=seed, position=position, continues=continues)
        for row, n, position in zip(tokens, wanted, positions, strict=True)
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_without_sequences_is_all_padding(strategy):
    batch = masked(unpacked([[(0, 0)]]), strategy=strategy)
    for name in ("segment_ids", "position_ids", "token_type_ids", "mlm_weights", "nsp_weights"):
        assert not batch[name].any(), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fifteen_percent_of_the_length_is_chosen_specials_counted(strategy):
    """Exactly, where words of one token fill what longer ones leave."""
    lengths = [[(n, n)] for n in range(2, 64)]
    batch = masked(unpacked(lengths), strategy=strategy, continues=np.zeros(VOCAB, bool))
    wanted = [min(20, max(1, round(0.15 * 2 * n))) for n in range(2, 64)]
    assert batch["mlm_weights"].sum(axis=1).tolist() == wanted


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_cap_is_kept_and_a_row_without_candidates_predicts_nothing(strategy):
    assert masked(unpacked(FULL), strategy=strategy, max_predictions=7)["mlm_weights"].sum(axis=1).max() == 7
    only_specials = np.zeros((1, S), np.int32)
    only_specials[0, :3] = [CLS, UNK, SEP]
    batch = masked(unpacked([[(3, 0)]], tokens=only_specials), strategy=strategy)
    assert batch["mlm_weights"].sum() == 0
    assert (batch["token_ids"] == only_specials).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chosen_columns_are_distinct_in_order_and_never_special(strategy):
    rows = unpacked(PACKED)
    check_contract(rows, masked(rows, strategy=strategy))


def check_contract(rows, batch) -> None:
    original = np.asarray(rows["token_ids"])
    for row in range(len(original)):
        used = batch["mlm_weights"][row] > 0
        columns = batch["mlm_positions"][row][used]
        assert (np.diff(columns) > 0).all()
        assert (original[row, columns] == batch["mlm_targets"][row][used]).all()
        assert not np.isin(original[row, columns], SPECIAL).any()
        assert (np.diff(used.astype(int)) <= 0).all(), "used slots are first"
        assert not batch["mlm_positions"][row][~used].any()
        assert not batch["mlm_targets"][row][~used].any()
        untouched = np.setdiff1d(np.arange(original.shape[1]), columns)
        assert (batch["token_ids"][row, untouched] == original[row, untouched]).all()


@pytest.mark.parametrize("strategy", ["whole_word", "span"])
def test_words_are_chosen_whole_and_no_more_of_them_would_fit(strategy):
    rows = unpacked(PACKED)
    wanted = round(0.15 * 120)
    sizes: Counter[int] = Counter()
    for tokens, columns in zip(
        np.asarray(rows["token_ids"]), chosen_columns(masked(rows, strategy=strategy)), strict=True
    ):
        words = words_of(tokens)
        taken = [word for word in words if word[0] in columns]
        assert sorted(column for word in taken for column in word) == columns
        assert len(columns) <= wanted
        left_out = [len(word) for word in words if word not in taken]
        assert min(left_out) > wanted - len(columns)
        sizes.update(map(len, taken))
    assert sizes[1] > sizes[2] > sizes[3] > 100


def test_a_special_token_ends_a_word():
    """What continues a word behind one is the rest of a word that was cut there."""
    first, more = 10, 900
    tokens = np.zeros((1, 16), np.int32)
    tokens[0, :12] = [CLS, more, more, first, more, UNK, more, first, SEP, CLS, more, SEP]
    lengths = [[(9, 0), (3, 0)]]
    assert words_of(tokens[0]) == [[1, 2], [3, 4], [6], [7], [10]]
    rows = unpacked(np.repeat(lengths, 200, 0), tokens=np.repeat(tokens, 200, 0), columns=16)
    seen = Counter(map(tuple, chosen_columns(masked(rows, strategy="whole_word", rate=0.1))))
    assert set(seen) == {(6,), (7,), (10,)}, "one token: of the words of one"
    seen = Counter(map(tuple, chosen_columns(masked(rows, strategy="whole_word", rate=0.2))))
    assert set(seen) == {(1, 2), (3, 4), (6, 7), (6, 10), (7, 10)}, "two tokens"


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("rate", "size"), [(0.15, 20), (0.5, 60)])
def test_the_choice_is_that_of_the_plain_algorithm(strategy, rate, size):
    rows = unpacked(PACKED[:200])
    batch = masked(rows, strategy=strategy, rate=rate, max_predictions=size)
    plain = plain_choices(rows, strategy=strategy, rate=rate, size=size)
    assert chosen_columns(batch) == [choice.columns for choice in plain]


@settings(max_examples=40, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    lengths=st.lists(
        st.lists(st.tuples(st.integers(2, 12), st.integers(0, 12)), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    ),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 0.3)),
    rate=st.floats(0.01, 0.99),
    size=st.integers(1, 72),
    seed=st.integers(0, 2**63 - 1),
    position=st.integers(0, 2**62),
)
def test_any_row_is_masked_as_the_plain_algorithm_does(strategy, lengths, shares, rate, size, seed, position):
    """Any packing, any share of continuing pieces and of [UNK], any rate and cap."""
    rng = np.random.default_rng(seed)
    continues = rng.random(VOCAB) < shares[0]
    continues[SPECIAL] = False
    rows = unpacked(lengths, columns=72)
    tokens = np.asarray(rows["token_ids"])
    unknown = (rng.random(tokens.shape) < shares[1]) & ~np.isin(tokens, SPECIAL)
    rows |= {"token_ids": tf.constant(np.where(unknown, UNK, tokens))}
    positions = position + np.arange(len(lengths))
    arguments = {"strategy": strategy, "rate": rate, "seed": seed, "positions": positions}
    batch = masked(rows, continues=continues, max_predictions=size, **arguments)
    plain = plain_choices(rows, continues=continues, size=size, **arguments)
    assert chosen_columns(batch) == [choice.columns for choice in plain]
    check_contract(rows, batch)


def test_token_is_whole_word_where_nothing_continues_a_word(monkeypatch):
    """And whole_word is span with spans of one word, but for the fate."""
    rows = unpacked(PACKED)
    by_token = masked(rows, strategy="token")
    by_word = masked(rows, strategy="whole_word", continues=np.zeros(VOCAB, bool))
    assert all((by_token[name] == by_word[name]).all() for name in by_token)
    monkeypatch.setattr(masking, "SPAN_WORDS", 1)
    by_word, by_span = masked(rows, strategy="whole_word"), masked(rows, strategy="span")
    assert (by_word["mlm_positions"] == by_span["mlm_positions"]).all()


def test_spans_have_the_lengths_of_spanbert():
    """Geometric with p = 0.2, cut at 10 words and scaled up again; mean 3.8."""
    hashes = masking._hash(0, tf.range(1000, dtype=tf.int64), tf.range(S))
    counts = np.bincount(np.asarray(masking._span_reach(hashes)).ravel(), minlength=11)[1:]
    expected = 0.8 ** np.arange(10) / np.sum(0.8 ** np.arange(10)) * 1000 * S
    assert np.sum((counts - expected) ** 2 / expected) < 30  # 9 degrees of freedom
    assert abs(counts @ np.arange(1, 11) / counts.sum() - 3.8) < 0.02


def test_what_is_masked_in_long_rows_are_spans():
    """At a small rate spans seldom meet: runs of chosen columns are as long as spans."""
    rows = unpacked([[(4096, 0)]] * 50, columns=4096)
    batch = masked(rows, strategy="span", rate=0.02, max_predictions=82, continues=np.zeros(VOCAB, bool))
    runs = np.concatenate(
        [
            np.diff(np.flatnonzero(np.diff(columns, prepend=-9, append=9999) != 1))
            for columns in chosen_columns(batch)
        ]
    )
    assert abs(runs.mean() - 3.8) < 0.3
    single = masked(rows, strategy="token", rate=0.02, max_predictions=82)
    assert np.mean(np.diff(single["mlm_positions"]) == 1) < 0.05


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_eighty_ten_ten(strategy):
    batch = masked(unpacked(FULL * 8), strategy=strategy, positions=np.arange(8 * B), max_predictions=19)
    used = batch["mlm_weights"] > 0
    now, before = replaced(batch)[used], batch["mlm_targets"][used]
    n = now.size
    shares = {"mask": (now == MASK).sum() / n, "kept": (now == before).sum() / n}
    shares["random"] = 1 - shares["mask"] - shares["kept"]
    # Tokens of a span are decided together: as if there were fewer of them, by E[l^2] / E[l] of its length.
    draws = n / (10 if strategy == "span" else 1)
    for name, expected in (("mask", 0.8), ("kept", 0.1 + 0.1 / 995), ("random", 0.1 - 0.1 / 995)):
        assert abs(shares[name] - expected) < 5 * (expected * (1 - expected) / draws) ** 0.5, (name, shares)
    random_tokens = now[(now != MASK) & (now != before)]
    assert not np.isin(random_tokens, SPECIAL).any()
    assert len(np.unique(random_tokens)) > 980  # of the 995 ordinary ones


@pytest.mark.parametrize(("mask", "random", "share"), [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)])
def test_the_split_is_what_the_config_says(mask, random, share):
    batch = masked(unpacked(FULL), mask_fraction=mask, random_fraction=random, max_predictions=19)
    assert abs((replaced(batch) == MASK).mean() - share) < 0.03
    if mask + random == 0:
        assert (replaced(batch) == batch["mlm_targets"]).all()


def test_the_tokens_of_a_span_share_one_fate():
    """All masked, all kept, or all random, then each its own; other spans of the row have other fates."""
    rows = unpacked(PACKED)
    vocabulary = np.pad(CONTINUES, (0, 99_000))  # large: a random token is not by chance the one before
    batch = masked(
        rows, strategy="span", rate=0.4, max_predictions=51, continues=vocabulary,
        mask_fraction=0.4, random_fraction=0.3,
    )  # fmt: skip
    plain = plain_choices(rows, strategy="span", rate=0.4, size=51)
    fates: Counter[str] = Counter()
    pairs, equal = 0, 0
    for row, (choice, columns) in enumerate(zip(plain, chosen_columns(batch), strict=True)):
        now, before = batch["token_ids"][row], np.asarray(rows["token_ids"])[row]
        of_row = []
        for span in choice.spans:
            part = [column for column in span if column in columns]
            if not part:
                continue
            if (now[part] == MASK).all():
                of_row.append("mask")
            elif (now[part] == before[part]).all():
                of_row.append("keep")
            else:
                assert (now[part] != before[part]).all()
                assert len(set(now[part])) == len(part)
                of_row.append("random")
        fates.update(of_row)
        pairs += len(of_row) - 1
        equal += sum(a == b for a, b in pairwise(of_row))
    n = fates.total()
    for name, share in (("mask", 0.4), ("keep", 0.3), ("random", 0.3)):
        assert abs(fates[name] / n - share) < 5 * (share * (1 - share) / n) ** 0.5
    chance = 0.4**2 + 0.3**2 + 0.3**2
    assert abs(equal / pairs - chance) < 5 * (chance * (1 - chance) / pairs) ** 0.5


def test_the_pieces_of_a_whole_word_have_fates_of_their_own():
    batch = masked(unpacked(FULL * 4), strategy="whole_word", mask_fraction=0.5, random_fraction=0.0)
    is_mask = replaced(batch) == MASK
    same_word = (np.diff(batch["mlm_positions"]) == 1) & CONTINUES[batch["mlm_targets"][:, 1:]]
    agree = (is_mask[:, 1:] == is_mask[:, :-1])[same_word]
    assert agree.size > 1000
    assert abs(agree.mean() - 0.5) < 5 * 0.5 / agree.size**0.5


@pytest.mark.parametrize("strategy", ["token", "whole_word"])
def test_every_column_is_chosen_equally_often(strategy):
    """Every column of words of one token, that is. Longer words are left out where they do not fit."""
    tokens = np.random.default_rng(0).integers(5, 700, (1, S)).astype(np.int32)
    tokens[0, [0, S // 2 - 1, S - 1]] = [CLS, SEP, SEP]
    longer = [10, 11, 40, 41, 42, 90, 91]
    if strategy == "whole_word":
        tokens[0, longer] = [10, 900, 10, 900, 900, 10, 900]
    rows = unpacked(FULL * 20, tokens=np.repeat(tokens, 20 * B, 0))
    batch = masked(rows, strategy=strategy, max_predictions=19)
    counts = np.bincount(batch["mlm_positions"].ravel(), minlength=S)
    assert counts[[0, S // 2 - 1, S - 1]].sum() == 0
    assert counts.sum() == 20 * B * 19
    alike = np.setdiff1d(np.arange(S), [0, S // 2 - 1, S - 1, *(longer if strategy == "whole_word" else [])])
    expected = counts[alike].mean() / (20 * B)
    assert abs(expected - 19 / 125) < 0.002
    deviation = (counts[alike] / (20 * B) - expected) / (expected * (1 - expected) / (20 * B)) ** 0.5
    assert np.abs(deviation).max() < 5
    assert 0.8 < deviation.std() < 1.2
    if strategy == "whole_word":
        assert counts[10] == counts[11]
        assert counts[40] == counts[41] == counts[42] < counts[10] < counts[alike].mean()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_masks_depend_on_seed_and_position_and_on_nothing_else(strategy):
    rows = unpacked(FULL)
    config = {"strategy": strategy, "max_predictions": 19}
    first = masked(rows, seed=1, **config)
    again = masked(rows, seed=1, **config)
    assert all((first[name] == again[name]).all() for name in first)
    part = {name: value[100:150] for name, value in rows.items()}
    piece = masked(part, seed=1, positions=np.arange(100, 150), **config)
    assert all((piece[name] == first[name][100:150]).all() for name in first)
    # As many columns are shared with another choice as chance gives. Near a special token spans are fewer.
    share = np.bincount(np.concatenate(chosen_columns(first)), minlength=S) / B
    for other in ({"seed": 2}, {"seed": 1, "positions": np.arange(B) + B}):
        others = chosen_columns(masked(rows, **other, **config))
        shared = [len(np.intersect1d(a, b)) for a, b in zip(chosen_columns(first), others, strict=True)]
        assert abs(np.mean(shared) - (share**2).sum()) < 0.5


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("token", "4513f451bf558169"), ("whole_word", "f71b418f1114d757"), ("span", "cb7fe5b3e4001e13")],
)
def test_the_masks_are_pinned(strategy, expected):
    """A change of these values breaks the resumption of every run."""
    batch = masked(unpacked(PACKED[:20]), strategy=strategy, seed=3, positions=np.arange(20) + 10**10)
    digest = hashlib.sha256(batch["token_ids"].tobytes() + batch["mlm_positions"].tobytes()).hexdigest()
    assert digest[:16] == expected


@pytest.mark.parametrize(("rate", "final", "steps"), [(0.3, 0.15, 100), (0.15, 0.4, 10**6)])
def test_the_rate_goes_on_a_line_and_stays(rate, final, steps):
    config = MaskingConfig(rate=rate, final_rate=final, rate_steps=steps)
    found = [float(masking.rate_at(tf.constant(s, tf.int64), config=config)) for s in (0, steps // 2, steps)]
    assert found == pytest.approx([rate, (rate + final) / 2, final], abs=1e-15)
    after = [float(masking.rate_at(tf.constant(s, tf.int64), config=config)) for s in (steps + 1, 2**40)]
    assert after == [found[-1]] * 2
    rows = unpacked(FULL[:3])
    for step in (0, steps // 3, steps, 3 * steps):
        share = rate + (final - rate) * min(step / steps, 1)
        batch = masked(rows, step=step, rate=rate, final_rate=final, rate_steps=steps, max_predictions=60)
        assert (batch["mlm_weights"].sum(axis=1) == round(share * S)).all()


def test_without_a_final_rate_the_rate_is_constant():
    config = MaskingConfig(rate=0.15)
    assert {float(masking.rate_at(tf.constant(s, tf.int64), config=config)) for s in (0, 10**9)} == {0.15}


def hashed(seed: int, positions: np.ndarray) -> np.ndarray:
    return np.asarray(masking._hash(seed, tf.constant(positions, tf.int64), tf.range(S)))


PURPOSES = (masking._REPLACEMENT, masking._REACH)
FAR = 2**62 + 12345
"""A position that no run reaches."""


def assert_uniform(values: np.ndarray) -> None:
    """Each of the eight bytes by a chi-square test, of 255 degrees of freedom: 255 +- 22.6."""
    for byte in values.reshape(-1, 1).view(np.uint8).T:
        expected = byte.size / 256
        statistic = np.sum((np.bincount(byte, minlength=256) - expected) ** 2) / expected
        assert abs(statistic - 255) < 5.5 * 22.6


@pytest.mark.parametrize("positions", [np.arange(500), FAR + np.arange(500), np.arange(500) * 2**40])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 2**63 - 1])
def test_the_hash_is_uniform(seed, positions):
    assert_uniform(hashed(seed, positions))


@pytest.mark.parametrize("start", [0, FAR])
def test_the_hashes_of_neighbours_are_independent(start):
    """Of columns, rows, seeds, and what is rehashed: the bits that two of them differ in are uniform too."""
    positions = start + np.arange(500)
    one = hashed(0, positions)
    assert_uniform(one[:, 1:] ^ one[:, :-1])
    assert_uniform(one[1:] ^ one[:-1])
    assert_uniform(one[256:] ^ one[:-256])
    assert_uniform(one[1:, :-1] ^ one[:-1, 1:])  # the next row's column before
    for seed in (1, 2, 3, 2**32):
        assert_uniform(one ^ hashed(seed, positions))
    assert_uniform(one[1:] ^ hashed(1, positions)[:-1])  # the next seed's row before
    again = [np.asarray(masking._rehash(tf.constant(one), purpose)) for purpose in PURPOSES]
    assert_uniform(again[0])
    assert_uniform(again[1])
    assert_uniform(again[0] ^ again[1])
    assert_uniform(again[0] ^ one)
    correlation = np.corrcoef([x.ravel() / 2.0**64 for x in (one, *again, np.roll(one, 1, axis=1))])
    assert np.abs(correlation - np.eye(4)).max() < 5 / one.size**0.5


def test_no_two_hashes_are_equal():
    """Of 10 seeds, 500 rows and 128 columns: 64 bits make that certain, in practice."""
    values = np.concatenate([hashed(seed, np.arange(500)).ravel() for seed in range(10)])
    assert len(np.unique(values)) == values.size


def test_the_hash_is_splitmix64():
    """Against the same three lines in Python's own integers."""

    def mix(x):
        mask = 2**64 - 1
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    golden, wrap = 0x9E3779B97F4A7C15, 2**64
    expected = [
        [
            mix((mix((mix((7 + golden) % wrap) + p * golden) % wrap) + (c + 1) * golden) % wrap)
            for c in range(4)
        ]
        for p in (0, 3, 2**40)
    ]
    found = masking._hash(7, tf.constant([0, 3, 2**40], tf.int64), tf.range(4))
    assert np.asarray(found).tolist() == expected
