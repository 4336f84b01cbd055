"""Documents to sequences: well formed, within the length, nothing lost, as google-research/bert does it."""

from __future__ import annotations

import functools
import random
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.instances import (
    NO_LABEL,
    _truncate,
    cut_lines,
    document_sequences,
    full_sentences,
    next_sentence_pairs,
    sentence_order_pairs,
)
from data_pipeline.packing import pack
from tests.helpers.data import real_documents

CLS, SEP = 2, 3
FIRST_TOKEN = 5

lines = st.lists(st.integers(FIRST_TOKEN, 10_000), max_size=60)
corpora = st.lists(st.lists(lines, max_size=12), max_size=8)


def pairs(documents, *, make=next_sentence_pairs, sequence_length=32, short=0.1, seed=0):
    return list(
        make(
            documents,
            sequence_length=sequence_length,
            short_sequence_probability=short,
            cls=CLS,
            sep=SEP,
            rng=random.Random(seed),
        )
    )


def halves(sequence):
    return sequence.token_ids[: sequence.first_length], sequence.token_ids[sequence.first_length :]


@given(corpora, st.integers(8, 64), st.integers(0, 99))
@settings(deadline=None)
def test_pairs_are_well_formed(documents, sequence_length, seed):
    for sequence in pairs(documents, sequence_length=sequence_length, short=0.3, seed=seed):
        first, second = halves(sequence)
        assert len(sequence.token_ids) <= sequence_length
        assert first[0] == CLS
        assert first[-1] == SEP
        assert len(first) > 2
        assert all(token >= FIRST_TOKEN for token in first[1:-1])
        if sequence.label == NO_LABEL:
            assert second == []
        else:
            assert len(second) > 1
            assert second[-1] == SEP
            assert all(token >= FIRST_TOKEN for token in second[:-1])


def distinct_documents(count, line_count, line_length):
    """Documents in which every token tells its document and its place."""
    tokens = iter(range(FIRST_TOKEN, 10**9))
    return [[[next(tokens) for _ in range(line_length)] for _ in range(line_count)] for _ in range(count)]


def test_label_0_is_what_follows_and_label_1_is_from_another_document():
    documents = distinct_documents(100, 15, 7)
    document_of = {t: d for d, document in enumerate(documents) for t in chain(*document)}
    labels = []
    for sequence in pairs(documents, sequence_length=64):
        first, second = halves(sequence)
        a, b = first[1:-1], second[:-1]
        labels.append(sequence.label)
        if sequence.label == 1:
            assert document_of[a[0]] != document_of[b[0]]
        else:
            assert {document_of[token] for token in a + b} == {document_of[a[0]]}
            assert b[0] > a[-1]
    assert 0.45 < sum(labels) / len(labels) < 0.8


def test_a_chunk_of_a_single_line_is_always_random():
    documents = distinct_documents(10, 1, 5)
    assert {sequence.label for sequence in pairs(documents)} == {1}


def test_lines_displaced_by_a_random_next_are_put_back():
    documents = distinct_documents(6, 20, 5)
    sequences = pairs(documents, sequence_length=43, short=0.0)  # 8 lines of 5: nothing is truncated
    seen = set(chain(*(sequence.token_ids for sequence in sequences)))
    assert seen >= set(chain(*chain(*documents)))


def test_long_lines_are_used_and_not_truncated_away():
    """Paragraphs of several hundred tokens: two halves make a sequence, and no third one is cut off."""
    rng = random.Random(0)
    tokens = iter(range(FIRST_TOKEN, 10**9))
    documents = [[[next(tokens) for _ in range(rng.randint(300, 600))] for _ in range(5)] for _ in range(40)]
    seen = {t for s in pairs(documents, sequence_length=128, short=0.0) for t in s.token_ids}
    assert len(seen) / len(set(chain(*chain(*documents)))) > 0.9


def test_a_lone_document_has_no_random_next():
    labels = {sequence.label for sequence in pairs(distinct_documents(1, 9, 7), sequence_length=64)}
    assert labels <= {0, NO_LABEL}


def test_truncation_takes_from_random_ends_of_the_longer_one():
    rng = random.Random(0)
    first, second = list(range(100)), list(range(20))
    starts = set()
    for _ in range(200):
        short, kept = _truncate(first, second, 60, rng)
        assert kept == second
        assert short == list(range(short[0], short[0] + 40))
        starts.add(short[0])
    assert 15 < min(starts) < 30 < max(starts) < 45  # Binomial(60, 1/2)
    assert [len(half) for half in _truncate(first, first, 60, rng)] == [30, 30]


def test_the_same_seed_gives_the_same_pairs():
    documents = distinct_documents(10, 10, 5)
    assert pairs(documents, seed=1) == pairs(documents, seed=1) != pairs(documents, seed=2)


@given(corpora, st.integers(8, 64))
@settings(deadline=None)
def test_full_sentences_hold_every_token_once_in_order(documents, sequence_length):
    sequences = list(full_sentences(documents, sequence_length=sequence_length, cls=CLS, sep=SEP))
    body = [token for sequence in sequences for token in sequence.token_ids if token >= FIRST_TOKEN]
    assert body == list(chain(*chain(*documents)))
    for sequence in sequences:
        tokens = sequence.token_ids
        assert len(tokens) <= sequence_length
        assert (tokens[0], tokens[-1], sequence.label) == (CLS, SEP, NO_LABEL)
        assert (SEP, SEP) not in pairwise(tokens)
        assert sequence.first_length == len(tokens)


@given(corpora, st.integers(8, 64))
@settings(deadline=None)
def test_documents_are_cut_into_full_sequences_that_never_cross(documents, sequence_length):
    for document in documents:
        tokens = list(chain(*document))
        sequences = list(document_sequences([document], sequence_length=sequence_length, cls=CLS, sep=SEP))
        assert [t for sequence in sequences for t in sequence.token_ids[1:-1]] == tokens
        assert all(len(sequence.token_ids) == sequence_length for sequence in sequences[:-1])
        assert all((s.token_ids[0], s.token_ids[-1], s.label) == (CLS, SEP, NO_LABEL) for s in sequences)
    together = list(document_sequences(documents, sequence_length=sequence_length, cls=CLS, sep=SEP))
    assert len(together) == sum(-(-sum(map(len, d)) // (sequence_length - 2)) for d in documents)


orders = functools.partial(pairs, make=sentence_order_pairs)


@given(corpora, st.integers(8, 64), st.integers(0, 99))
@settings(deadline=None)
def test_sentence_order_pairs_are_well_formed(documents, sequence_length, seed):
    sequences = orders(documents, sequence_length=sequence_length, seed=seed)
    for sequence in sequences:
        first, second = halves(sequence)
        assert len(sequence.token_ids) <= sequence_length
        assert (first[0], first[-1]) == (CLS, SEP)
        assert (sequence.label == NO_LABEL) == (not second)
        assert min(first[1:-1] + second[:-1]) >= FIRST_TOKEN
    total = sum(map(len, chain(*documents)))
    kept = sum(token >= FIRST_TOKEN for sequence in sequences for token in sequence.token_ids)
    assert kept + sum(sequence.truncated for sequence in sequences) == total


def test_sentence_order_swaps_half_of_the_neighbours():
    documents = distinct_documents(100, 15, 7)
    sequences = [s for s in orders(documents, sequence_length=64) if s.label != NO_LABEL]
    for sequence in sequences:
        first, second = halves(sequence)
        a, b = first[1:-1], second[:-1]
        before, after = (b, a) if sequence.label else (a, b)
        assert before[-1] < after[0] <= before[-1] + 1 + sequence.truncated
    share = sum(sequence.label for sequence in sequences) / len(sequences)
    assert abs(share - 0.5) < 5 * 0.5 / len(sequences) ** 0.5


@given(corpora, st.integers(8, 64), st.integers(0, 99))
@settings(deadline=None)
def test_what_does_not_fit_is_counted(documents, sequence_length, seed):
    sequences = pairs(documents, sequence_length=sequence_length, seed=seed)
    assert all(s.truncated == 0 or len(s.token_ids) == sequence_length for s in sequences)


@given(lines, st.integers(1, 9))
def test_cut_lines_loses_nothing(line, limit):
    cut = cut_lines([line], limit=limit)
    assert list(chain(*cut)) == line
    assert all(0 < len(piece) <= limit for piece in cut)


@given(corpora, st.integers(16, 64), st.integers(1, 4))
@settings(deadline=None)
def test_packing_keeps_every_sequence_once_within_its_limits(documents, sequence_length, max_sequences):
    sequences = pairs(documents, sequence_length=sequence_length)
    rows = pack(sequences, sequence_length=sequence_length, max_sequences=max_sequences)
    assert sorted(chain(*rows)) == sorted(sequences)
    for row in rows:
        assert 1 <= len(row) <= max_sequences
        assert sum(len(sequence.token_ids) for sequence in row) <= sequence_length
    assert rows == pack(sequences, sequence_length=sequence_length, max_sequences=max_sequences)


@pytest.mark.parametrize(
    ("input_format", "max_sequences"),
    [("documents", 4), ("documents", 8), ("next_sentence", 8), ("sentence_order", 8)],
)
def test_rows_of_512_waste_less_than_two_percent_of_real_text(input_format, max_sequences):
    """The Python documentation, in words for want of a tokenizer; many of its documents are short."""
    numbers: dict[str, int] = {}
    documents = [
        [[numbers.setdefault(word, FIRST_TOKEN + len(numbers)) for word in line.split()] for line in lines]
        for lines in real_documents(500)
    ]
    size = {"sequence_length": 512, "cls": CLS, "sep": SEP}
    rng = {"short_sequence_probability": 0.1, "rng": random.Random(0)}
    match input_format:
        case "documents":
            sequences = list(document_sequences(documents, **size))
        case "next_sentence":
            sequences = list(next_sentence_pairs(documents, **size, **rng))
        case "sentence_order":
            sequences = list(sentence_order_pairs(documents, **size, **rng))
    rows = pack(sequences, sequence_length=512, max_sequences=max_sequences)
    fill = sum(len(sequence.token_ids) for sequence in sequences) / (512 * len(rows))
    print(f"{input_format}, {max_sequences} a row: {fill:.2%} full")
    assert fill > 0.98
