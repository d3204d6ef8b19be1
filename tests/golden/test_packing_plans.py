"""Packing plans against the reference: which example goes where, in which order."""

import numpy as np
import pytest

from ftjax.data import packing
from tests.golden import reference


@pytest.fixture(scope="module")
def cases(golden):
    return reference.given(golden / "data/packing.json")["cases"]


def rows_of(plan, lengths):
    """Token numbers row by row, where the examples count up through the whole data set."""
    first = np.cumsum(lengths) - lengths
    for r in range(plan.rows):
        pieces = range(plan.bounds[r], plan.bounds[r + 1])
        starts = [first[plan.example[k]] + plan.start[k] for k in pieces]
        ends = [start + plan.length[k] for start, k in zip(starts, pieces, strict=True)]
        yield [t for s, e in zip(starts, ends, strict=True) for t in range(int(s), int(e))]


def test_rows_and_their_order(cases):
    for case in cases:
        lengths = np.asarray(case["lengths"])
        plan = packing.make(case["strategy"], lengths, max_tokens=case["seq_length"])
        assert list(rows_of(plan, lengths)) == case["out"]["input_ids"], case["strategy"]


def test_segment_lengths(cases):
    checked = 0
    for case in cases:
        if "seq_lengths" not in case["out"]:
            continue
        plan = packing.make(case["strategy"], case["lengths"], max_tokens=case["seq_length"])
        found = np.split(plan.length, plan.bounds[1:-1])
        assert [each.tolist() for each in found] == case["out"]["seq_lengths"]
        checked += 1
    assert checked
