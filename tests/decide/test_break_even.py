import pytest

from ftjax.decide import break_even, prices, verdict
from ftjax.decide.break_even import Line
from ftjax.decide.prices import Cost

EXAMPLES = [
    (Line(100, 1), Line(0, 3), "from", 50),
    (Line(0, 3), Line(100, 1), "until", 50),
    (Line(0, 1), Line(0, 3), "always", None),
    (Line(-5, 1), Line(0, 3), "always", None),
    (Line(0, 3), Line(0, 1), "never", None),
    (Line(5, 3), Line(0, 1), "never", None),
    (Line(5, 1), Line(0, 1), "never", None),
    (Line(0, 1), Line(5, 1), "always", None),
    (Line(5, 1), Line(5, 1), "equal", None),
]


@pytest.mark.parametrize(("a", "b", "kind", "queries"), EXAMPLES)
def test_break_even_of_all_signs(a, b, kind, queries):
    assert break_even.break_even(a, b) == (kind, queries)


@pytest.mark.parametrize(("a", "b", "kind", "queries"), EXAMPLES)
def test_break_even_is_where_the_costs_cross(a, b, kind, queries):
    cheaper = lambda q: a.at(q) < b.at(q)
    if kind == "from":
        assert (cheaper(queries - 1), cheaper(queries + 1)) == (False, True)
    elif kind == "until":
        assert (cheaper(queries - 1), cheaper(queries + 1)) == (True, False)
    else:
        assert {cheaper(q) for q in (1, 10, 1e9)} == {kind == "always"}


def test_long_prompts_against_training_of_a_large_model():
    parameters, tokens, longer = 8e9, 1e7, 2_000
    lora = Line(4 * parameters * tokens, 0)
    rag = Line(0, 2 * parameters * longer)
    assert (lora.fixed, rag.per_query) == (3.2e17, 3.2e13)
    assert break_even.break_even(lora, rag) == ("from", 10_000)
    assert str(break_even.break_even(lora, rag)) == "from 10,000"
    assert str(break_even.break_even(rag, rag)) == "equal"


COST = Cost(10, 100.0, 7200.0, 2.0, 3.6, update_flops=50.0, update_s=3600.0)


@pytest.mark.parametrize(
    ("options", "fixed", "per_query", "unit"),
    [
        (dict(queries=5), 100, 2, "FLOPs"),
        (dict(queries=5, updates=3), 250, 2, "FLOPs"),
        (dict(queries=5, flop=0.1, label=2, updates=1), 20 + 15, 0.2, "money"),
        (dict(queries=5, device_hour=4, label=0.5, updates=2), 5 + 8 + 8, 0.004, "money"),
    ],
)
def test_costs_at_prices(options, fixed, per_query, unit):
    chosen = prices.make(**options)
    assert prices.line(COST, chosen) == pytest.approx((fixed, per_query))
    assert prices.total(COST, chosen) == pytest.approx(fixed + 5 * per_query)
    assert chosen.unit == unit


def test_prices_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="expected one of them"):
        prices.make(queries=1, flop=1.0, device_hour=1.0)
    with pytest.raises(ValueError, match="FLOPs and money do not add up"):
        prices.make(queries=1, label=1.0)


def test_flips_are_the_crossings_nearest_to_now():
    costs = {
        "rag": Cost(query_flops=3.0),
        "lora": Cost(train_flops=100.0, query_flops=1.0, update_flops=40.0),
        "full": Cost(train_flops=400.0, query_flops=0.5),
    }
    chosen = prices.make(queries=30, updates=0)
    found = verdict.flips("rag", tuple(costs), costs, chosen)
    assert found == [("queries", 30, 50, "lora")]
    # Beyond 600 queries full is the cheapest, below 50 rag is.
    found = verdict.flips("lora", tuple(costs), costs, chosen._replace(queries=100))
    assert found[:2] == [("queries", 100, 50, "rag"), ("queries", 100, 600, "full")]
    assert found[2] == ("updates", 0, 2.5, "rag")  # 200 + 40 u = 300


def test_what_cannot_flip_is_not_listed():
    costs = {"a": Cost(query_flops=1.0), "b": Cost(query_flops=2.0, train_flops=1.0)}
    assert verdict.flips("a", ("a", "b"), costs, prices.make(queries=10)) == []
    assert verdict.flips("a", ("a",), costs, prices.make(queries=10)) == []
