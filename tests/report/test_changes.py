"""The figures of before and after, and of learned against forgotten: what they are made of."""

import math

import pytest

from ftjax.report import changes
from ftjax.report.table import Row, Table


def row(label, metric, group, values, intervals):
    bounds = tuple((value - 0.1, value + 0.1) for value in values)
    return Row(label, metric, group, values, (None, *intervals), bounds)


TABLE = Table(
    ("before", "small", "large"),
    (
        row("facts", "exact_match", "new", (0.1, 0.5, 0.9), ((0.3, 0.5), (0.6, 0.9))),
        row("facts", "f1", "new", (0.1, 0.6, 0.9), ((0.4, 0.6), (0.7, 0.9))),
        row("skill", "exact_match", "new", (0.0, 0.2, 1.0), ((0.1, 0.5), (1.0, 1.0))),
        row("text", "nll", "old", (2.0, 2.1, 2.5), ((0.05, 0.2), (0.4, 0.6))),
        row("quiz", "accuracy", "old", (0.8, 0.7, 0.4), ((-0.3, 0.1), (-0.5, -0.3))),
        row("next", "nll", "later", (3.0, 3.0, 3.0), (None, None)),
    ),
)


def test_a_gain_is_by_the_direction_of_its_metric_and_intervals_add_in_quadrature():
    learned = changes.mean_gain(TABLE.rows[:3:2], 1)
    assert learned.value == pytest.approx(0.3)
    assert learned.low == pytest.approx(0.3 - math.hypot(0.1, 0.1) / 2)
    assert learned.high == pytest.approx(0.3 + math.hypot(0.1, 0.3) / 2)
    # More nats are worse, and the ends of the interval change places.
    assert changes.mean_gain(TABLE.rows[3:4], 1) == pytest.approx((-0.1, -0.2, -0.05))
    alone = row("x", "nll", "old", (1.0, 2.0), (None,))
    assert changes.mean_gain([alone], 1) == (-1.0, -1.0, -1.0)


def test_each_evaluation_counts_once_and_units_are_not_mixed():
    assert [r.label for r in changes._chosen(TABLE, "new")["share"]] == ["facts", "skill"]
    old = {unit: [r.label for r in own] for unit, own in changes._chosen(TABLE, "old").items()}
    assert old == {"nats/token": ["text"], "share": ["quiz"]}
    found = changes.trades(TABLE)
    assert list(found) == ["learned against forgotten (share)",
                           "learned against forgotten (nats/token)"]  # fmt: skip
    for svg in found.values():
        for name in ("before", "small", "large", "mean gain of facts, skill (share)"):
            assert name in svg
    assert "mean fall of text (nats/token)" in found["learned against forgotten (nats/token)"]


def test_a_single_run_or_nothing_learned_is_no_trade():
    assert changes.trades(Table(TABLE.columns[:2], ())) == {}
    assert changes.trades(Table(TABLE.columns, TABLE.rows[3:])) == {}


def test_every_metric_has_a_figure_with_its_unit_and_direction():
    found = changes.figures(TABLE)
    assert list(found) == [
        "exact_match (share, more is better)", "f1 (share, more is better)",
        "nll (nats/token, less is better)", "accuracy (share, more is better)",
    ]  # fmt: skip
    drawing = found["exact_match (share, more is better)"]
    for name in ("facts", "skill", "small", "large"):
        assert name in drawing


def test_a_run_that_lacks_an_evaluation_is_drawn_without_it():
    lacking = TABLE.rows[0]._replace(values=(0.1, None, 0.9), intervals=(None, None, None))
    table = Table(TABLE.columns, (lacking,))
    assert list(changes.figures(table)) == ["exact_match (share, more is better)"]
    assert changes.trades(table) == {}
