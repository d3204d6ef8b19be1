import pytest

from ftjax.decide import growth


def record(rag, lora, *, sure=True, need="facts"):
    """A decision on one need: scores, and whether their difference is more than chance."""
    score = lambda value: {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50}
    half = 0.0 if sure else 1.0
    value = lora - rag
    own = {
        "scores": {"lora": score(lora), "rag": score(rag), "rag_oracle": score(0.95)},
        "differences": [
            {"a": "lora", "b": "rag", "value": value, "low": value - half, "high": value + half,
             "p": 0.01, "adjusted_p": 0.01}
        ],
        "chosen": "lora" if lora > rag else "rag", "resolved": sure,
    }  # fmt: skip
    return {"needs": {need: own, "other": own}, "config": {"base": "tiny"}}


POINTS = {8.0: record(0.8, 1.0), 32.0: record(0.8, 0.9), 128.0: record(0.8, 0.6)}


def test_arms_that_change_places_are_named():
    [found] = growth.crossings(POINTS, "facts")
    assert found[:4] == ("lora", "rag", 32, 128)
    assert found.at == pytest.approx(32 * 4 ** (1 / 3))  # a third of the way, in the logarithm
    assert found.is_resolved
    assert str(found) == (
        "lora is ahead of rag up to 32 and behind it from 128 on; equal at about 50.8"
    )


def test_a_lead_that_chance_may_have_made_is_called_so():
    points = POINTS | {128.0: record(0.8, 0.75, sure=False)}
    [found] = growth.crossings(points, "facts")
    assert not found.is_resolved
    assert ", which chance may have made;" in str(found)


def test_equal_and_constant_orders_do_not_cross():
    points = {8.0: record(0.8, 1.0), 16.0: record(0.8, 0.8), 32.0: record(0.8, 0.9)}
    assert growth.crossings(points, "facts") == []


def test_the_table_has_a_row_for_every_value():
    head, *rows = growth.table(POINTS, "facts", name="people")
    assert head == ["people", "lora", "rag", "rag_oracle", "chosen"]
    assert rows[0] == ["8", "1.000 [0.900, 1.100]", "0.800 [0.700, 0.900]",
                       "0.950 [0.850, 1.050]", "lora"]  # fmt: skip
    assert [row[-1] for row in rows] == ["lora", "lora", "rag"]


def test_only_needs_and_arms_of_all_are_shown():
    fewer = record(0.8, 0.9, need="facts")
    del fewer["needs"]["other"], fewer["needs"]["facts"]["scores"]["rag_oracle"]
    points = {8.0: POINTS[8.0], 16.0: fewer}
    assert growth.needs(points) == ["facts"]
    assert growth.arms(points, "facts") == ["lora", "rag"]


def test_the_page_shows_crossings_figures_and_links():
    links = {"people = 8": "people-8/report.html"}
    page = growth.page(POINTS, name="people", title="growth", links=links)
    assert page.count("<svg") == 2
    assert '<td class="name">8</td>' in page  # stays where the table is scrolled
    assert "equal at about 50.8" in page
    assert 'href="people-8/report.html"' in page
    assert "0.800 [0.700, 0.900]" in page
