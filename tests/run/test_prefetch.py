"""Batches go to the devices ahead of their steps, in order, and a thread ends when its reader does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bert_jax.run.prefetch import DEPTH, prefetched, run_all


def test_it_is_map_in_order():
    with prefetched(range(100), lambda x: x * x) as squares:
        assert list(squares) == [x * x for x in range(100)]


def test_it_runs_ahead_and_not_without_end():
    placed = []
    with prefetched(iter(range(100)), placed.append) as arrays:
        time.sleep(0.3)
        assert len(placed) == DEPTH + 1, "those that wait, and one that is given"
        assert arrays is not None


def test_an_error_comes_in_its_turn():
    def batches() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with prefetched(batches(), lambda x: x + 1) as arrays:
        assert next(arrays) == 2
        with pytest.raises(OSError, match="the disk is gone"):
            next(arrays)


def test_leaving_it_ends_its_thread_whatever_it_does():
    before = threading.active_count()
    with prefetched(iter(int, 1), lambda x: x) as arrays:
        next(arrays)
    assert threading.active_count() == before


def test_what_is_found_is_in_order_unless_it_is_stopped():
    asked = []

    def stop(after: int) -> bool:
        asked.append(None)
        return len(asked) > after

    found = run_all(lambda x: x + 1, range(5), lambda x: x, stop=lambda: stop(5))
    assert found == [1, 2, 3, 4, 5]
    assert run_all(lambda x: x + 1, range(0), lambda x: x, stop=lambda: False) == []
    assert run_all(lambda x: x + 1, range(5), lambda x: x, stop=lambda: stop(7)) is None
