"""What follows from the lengths of a row's sequences, in NumPy and in a compiled program."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.batch import unpack
from data_pipeline.instances import NO_LABEL

S = 12
ROW = {
    "token_ids": np.arange(S, dtype=np.int32)[None],
    "segment_lengths": np.array([[(3, 2), (4, 0), (0, 0)]], np.int32),
    "pair_labels": np.array([[1, NO_LABEL, 0]], np.int32),
    "mlm_positions": np.array([[2, 6, 0]], np.int32),
    "mlm_targets": np.array([[7, 8, 0]], np.int32),
}


def test_packed_sequences_and_padding_are_laid_out():
    rows = {name: value[0].tolist() for name, value in unpack(ROW).items()}
    assert rows["token_ids"] == list(range(S))
    assert rows["segment_ids"] == [1] * 5 + [2] * 4 + [0] * 3
    assert rows["position_ids"] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]
    assert rows["token_type_ids"] == [0, 0, 0, 1, 1] + [0] * 7
    assert rows["cls_positions"] == [0, 5, 0]
    assert rows["nsp_labels"] == [1, 0, 0]
    assert rows["nsp_weights"] == [1.0, 0.0, 0.0]
    assert rows["mlm_weights"] == [1.0, 1.0, 0.0]
    assert rows["mlm_targets"] == [7, 8, 0]


def test_what_is_unpacked_stays_and_what_a_batch_has_beside_too():
    once = unpack(ROW | {"weights": np.ones(1, np.float32)})
    assert "weights" in once
    assert unpack(once) == once


def test_rows_without_masks_or_labels_have_none():
    assert set(unpack({name: ROW[name] for name in ("token_ids", "segment_lengths")})) == {
        "token_ids", "segment_ids", "position_ids", "token_type_ids", "cls_positions"
    }  # fmt: skip


in_jax = jax.jit(unpack)
SEQUENCES = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), max_size=4)


@settings(deadline=None)
@given(st.lists(SEQUENCES, min_size=3, max_size=3))
def test_the_compiled_one_is_numpys_and_both_are_the_loop(rows: list[list[tuple[int, int]]]):
    lengths = np.zeros((len(rows), 4, 2), np.int32)
    for row, sequences in zip(lengths, rows, strict=True):
        row[: len(sequences)] = np.reshape(sequences, (-1, 2))
    batch = {"token_ids": np.zeros((len(rows), 44), np.int32), "segment_lengths": lengths}
    found, compiled = unpack(batch), in_jax(batch)
    for row, sequences in enumerate(rows):
        laid = [
            (number, place, int(place >= first))
            for number, (first, second) in enumerate(sequences, 1)
            for place in range(first + second)
        ]
        laid += [(0, 0, 0)] * (44 - len(laid))
        by_column = (found[name][row] for name in ("segment_ids", "position_ids", "token_type_ids"))
        assert list(zip(*by_column, strict=True)) == laid
    for name, array in found.items():
        assert array.dtype == compiled[name].dtype == np.int32
        assert (array == compiled[name]).all()
