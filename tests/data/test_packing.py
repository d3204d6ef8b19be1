import time

import numpy as np
import pytest

from ftjax.data import packing
from ftjax.data.encode import Example
from ftjax.data.store import Store, fill

CASES = [(seed, size, n) for seed, (size, n) in enumerate([(7, 60), (32, 300), (100, 40), (5, 0)])]


def lengths_of(seed, size, n, *, longest=1.0):
    return np.random.default_rng(seed).integers(0, int(size * longest) + 1, n)


@pytest.mark.parametrize(("seed", "size", "n"), CASES)
def test_best_fit_decreasing_is_the_textbook_one(seed, size, n):
    lengths = lengths_of(seed, size, n)
    lengths = lengths[lengths > 0]
    plan = packing.make("bfd", lengths, max_tokens=size)
    found = [each.tolist() for each in np.split(plan.example, plan.bounds[1:-1])] if n else []
    assert found == by_hand(lengths.tolist(), size)


def by_hand(lengths, size):
    """Best-fit decreasing one example at a time; equal spaces are served in order of arrival."""
    rows, spaces, arrived = [], [], []
    for time_, example in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        fits = [r for r in range(len(rows)) if spaces[r] >= lengths[example]]
        if not fits:
            rows, spaces, arrived = [*rows, []], [*spaces, size], [*arrived, 0]
            fits = [len(rows) - 1]
        r = min(fits, key=lambda r: (spaces[r], arrived[r]))
        rows[r].append(example)
        spaces[r] -= lengths[example]
        arrived[r] = time_
    return rows


@pytest.mark.parametrize("strategy", packing.STRATEGIES)
@pytest.mark.parametrize(("seed", "size", "n"), CASES)
def test_every_token_is_in_one_place(strategy, seed, size, n):
    lengths = lengths_of(seed, size, n, longest=2.5)
    plan = packing.make(strategy, lengths, max_tokens=size)
    seen = [
        (int(e), int(s) + k)
        for e, s, length in zip(plan.example, plan.start, plan.length, strict=True)
        for k in range(length)
    ]
    kept = lengths if strategy in packing.CUTTING else np.minimum(lengths, size)
    assert sorted(seen) == [(e, k) for e, length in enumerate(kept) for k in range(length)]
    widths = np.add.reduceat(plan.length, plan.bounds[:-1]) if plan.rows else np.zeros(0)
    assert (widths <= size).all()
    assert (plan.length > 0).all()


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_few_examples_are_spread_over_the_rows_that_are_asked_for(strategy):
    lengths = [3, 1, 2, 2, 1, 1]
    plan = packing.make(strategy, lengths, max_tokens=10, rows=4)
    rows = [sorted(each.tolist()) for each in np.split(plan.example, plan.bounds[1:-1])]
    assert rows == [[0], [2, 5], [3], [1, 4]]  # the longest alone, the shortest together
    assert packing.make(strategy, lengths, max_tokens=10).rows == 1
    assert packing.make(strategy, lengths, max_tokens=10, rows=9).rows == 6
    assert packing.make(strategy, [], max_tokens=10, rows=9).rows == 0


def test_rows_that_would_overflow_are_not_spread():
    for seed, size, n in CASES:
        lengths = lengths_of(seed, size, n)
        dense = packing.make("bfd", lengths, max_tokens=size)
        for rows in range(1, n + 2, 7):
            plan = packing.make("bfd", lengths, max_tokens=size, rows=rows)
            widths = np.add.reduceat(plan.length, plan.bounds[:-1]) if plan.rows else np.zeros(0)
            assert (widths <= size).all()
            assert sorted(plan.example) == sorted(dense.example)
            assert plan.rows in (dense.rows, min(rows, len(plan.example)))


def test_wrapped_fills_every_row_but_the_last():
    lengths = lengths_of(0, 30, 50, longest=3)
    plan = packing.make("wrapped", lengths, max_tokens=30)
    widths = np.add.reduceat(plan.length, plan.bounds[:-1])
    assert (widths[:-1] == 30).all()
    assert plan.rows == -(-lengths.sum() // 30)


def test_unknown_strategy():
    with pytest.raises(ValueError, match=r"data\.packing: got 'ffd'; expected one of bfd, "):
        packing.make("ffd", [1], max_tokens=4)


def test_a_hundred_thousand_examples_take_a_moment():
    """The work grows with the number of distinct lengths; one by one this takes minutes."""
    lengths = np.random.default_rng(0).lognormal(5.5, 1.0, 100_000).astype(int)
    before = time.process_time()
    plan = packing.make("bfd", lengths, max_tokens=2048)
    assert time.process_time() - before < 5
    assert plan.length.sum() / (plan.rows * 2048) > 0.99


@pytest.mark.parametrize("strategy", packing.STRATEGIES)
def test_segments_never_leak(strategy):
    """Tokens name their example: one segment holds one example's tokens, in order, from 0."""
    lengths = lengths_of(3, 16, 80, longest=1.5)
    store = Store(
        Example(np.arange(n, dtype=np.int32) + 1000 * i, np.ones(n, np.float32))
        for i, n in enumerate(lengths)
    )
    plan = packing.make(strategy, store.lengths, max_tokens=16)
    rows = [(plan, r) for r in range(plan.rows)]
    batch = fill(store, rows, max_tokens=16, pad_id=-1)
    for tokens, weights, segments, positions in zip(*batch.values(), strict=True):
        real = segments > 0
        assert (tokens[~real] == -1).all()
        assert not weights[~real].any()
        assert not positions[~real].any()
        for segment in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == segment)
            assert (np.diff(here) == 1).all()
            assert len(set(tokens[here] // 1000)) == 1
            assert (np.diff(tokens[here]) == 1).all()
            assert positions[here].tolist() == list(range(len(here)))
            assert weights[here].tolist() == [0.0] + [1.0] * (len(here) - 1)
