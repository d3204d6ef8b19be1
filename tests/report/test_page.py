import html.parser
import re

import pytest

from ftjax.report import curves
from ftjax.report import page as report
from ftjax.report.table import Row, join, table, table_text

RUNS = {
    "before": {"eval/tsql/nll": 1.9, "eval/tsql/exact_match": 0.0, "eval/wiki/nll": 2.1},
    "after LoRA": {"eval/tsql/nll": 0.5, "eval/tsql/exact_match": 0.6, "eval/wiki/nll": 2.3},
    "after full": {"eval/tsql/nll": 0.4, "eval/wiki/nll": 2.1, "eval/other/nll": 3.0},
}
GROUPS = {"wiki": "old", "tsql": "new"}


@pytest.fixture
def learned():
    return table(RUNS, groups=GROUPS)


def test_the_table_groups_new_before_old_and_judges_by_direction(learned):
    assert learned.columns == ("before", "after LoRA", "after full")
    assert [(row.label, row.metric) for row in learned.rows] == [
        ("tsql", "nll"),
        ("tsql", "exact_match"),
        ("wiki", "nll"),
    ]
    assert [row.verdict(1) for row in learned.rows] == ["better", "better", "worse"]
    assert [row.verdict(2) for row in learned.rows] == ["better", "same", "same"]
    assert learned.rows[1].change(2) is None


def test_a_change_within_its_interval_is_the_same():
    within, beyond = ("nll", "old", (1.0, 2.0), (None, (-0.1, 2.0))), (None, (0.5, 1.5))
    assert Row("x", *within).verdict(1) == "same"
    assert Row("x", *within[:3], beyond).verdict(1) == "worse"
    assert Row("x", "accuracy", "old", (1.0, 2.0), (None, None)).verdict(1) == "better"


def test_intervals_reach_their_rows():
    noise = {"after LoRA": {"eval/tsql/nll": (-2.0, 0.1)}}
    rows = table(RUNS, groups=GROUPS, intervals=noise).rows
    assert [row.verdict(1) for row in rows] == ["same", "better", "worse"]


def test_values_and_changes_are_shown_with_their_intervals(tmp_path):
    sides = {"before": {"eval/tsql/nll": (1.8, 2.0)}, "after LoRA": {"eval/tsql/nll": (0.4, 0.6)}}
    changes = {"after LoRA": {"eval/tsql/nll": (-1.5, -1.3)}}
    found = table(RUNS, groups=GROUPS, intervals=changes, bounds=sides)
    assert found.rows[0].bounds == ((1.8, 2.0), (0.4, 0.6), None)
    text = report.write(tmp_path / "r.html", title="x", config={}, table=found).read_text()
    for part in ("[1.80, 2.00]", "[0.40, 0.60]", "[-1.50, -1.30]"):
        assert part in text
    assert "-1.400 [-1.50, -1.30] +" in table_text(found)
    one = table(RUNS, groups=GROUPS, bounds=sides)._replace(columns=("before", "after LoRA"))
    joined = join({"a": one, "b": one})
    assert joined.rows[0].bounds == ((1.8, 2.0), None, None)


def test_an_unknown_group_is_named():
    with pytest.raises(ValueError, match=r"report.groups.wiki: got 'ancient'"):
        table(RUNS, groups={"wiki": "ancient"})


def test_the_table_in_text(learned):
    squeezed = [" ".join(text.split()) for text in table_text(learned).splitlines()]
    assert squeezed == [
        "evaluation metric before after LoRA change after full change",
        "new tsql nll 1.900 0.500 -1.400 + 0.400 -1.500 +",
        "new tsql exact_match 0.000 0.600 +0.600 + n/a n/a",
        "old wiki nll 2.100 2.300 +0.200 - 2.100 +0.000",
    ]


class Page(html.parser.HTMLParser):
    """Collects tags and their attributes, and checks that they close in order."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rows = [
        {"step": s, "loss": 3.0 - s / 10, "eval/tsql/nll": 2.0, "time/step_s": 9.0}
        for s in range(9)
    ]
    rows += [{"step": 9, "eval/wiki/nll": 1.0, "loss": None}]
    path = report.write(
        tmp_path_factory.mktemp("report") / "report.html",
        title="A & B",
        config={"model": {"name": "toy", "rank": 4}},
        rows=rows,
        samples=[report.Sample("<script>alert(1)</script>", {"before": "b & c", "me": "d"}, "e")],
        table=table(RUNS, groups=GROUPS),
        facts={"tokens": "1 M"},
        costs=report.Grid(["", "a run"], [["memory", "2 GiB"]]),
        failures=[report.Failure("quiz", "wrong", report.Sample("1+1", {"after": "3"}, "2"))],
        made={"command": "python -m <x>", "host": "here"},
        links={"export/README.md": "the card"},
    )
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_holds_everything(page):
    read = Page(page)
    assert read.open == []
    text = " ".join(read.words)
    for part in (
        "A & B",
        "b & c",
        "1 M",
        "after LoRA",
        "exact_match",
        '"rank": 4',
        "evaluation: nll",
        "2 GiB",
        "1+1",
        "python -m <x>",
        "the card",
        "after LoRA: 2 of 2 metrics of the new task better, 0 worse; 0 of 1 metrics of old",
        "nll ↓ nats/token",
        "learned against forgotten (nats/token)",
        "nll (nats/token, less is better)",
    ):
        assert part in " ".join(text.split())
    assert ("a", {"href": "export/README.md"}) in read.tags
    kinds = [attributes.get("class", "") for _, attributes in read.tags]
    assert sum("change better" in kind for kind in kinds) == 3
    assert sum("change worse" in kind for kind in kinds) == 1


def test_the_page_asks_nobody_for_anything(page):
    read = Page(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in read.tags}
    for _, attributes in read.tags:
        for name in ("src", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
        # A link is to a file beside the page.
        assert not re.match(r"[a-z]+:|/", attributes.get("href", ""))
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_text_is_escaped(page):
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_two_drawings_share_no_ids_and_take_their_colours_from_the_page(page):
    ids = [attributes["id"] for _, attributes in Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    assert not any(placeholder in page for placeholder in curves.COLORS)
    assert "var(--c0)" in page
    references = re.findall(r'(?:xlink:href="|url\()#([^")]+)', page)
    assert set(references) <= set(ids)


def test_curves_are_collected_by_metric_and_loss_comes_first():
    rows = [{"step": 1, "eval/a/nll": 1.0, "grad_norm": 2.0, "tokens": 5}, {"step": 2, "loss": 0.5}]
    rows += [{"step": 2, "eval/b/nll": 3.0, "time/step_s": 1.0}]
    rows += [{"step": step, "eval/c/nll": float(step)} for step in (1, 2, 3)]
    # Two points of an evaluation are no curve; they are in the figures of before and after.
    assert curves.collect(rows) == {
        "loss": {"loss": ([2], [0.5])},
        "evaluation: nll": {"c": ([1, 2, 3], [1.0, 2.0, 3.0])},
        "grad norm": {"grad_norm": ([1], [2.0])},
    }
    assert next(iter(curves.collect(rows))) == "loss"


def test_a_page_of_nothing_but_a_title(tmp_path):
    nothing = table({"before": {}, "after": {}}, groups={})
    text = report.write(tmp_path / "r.html", title="empty", config={}, table=nothing).read_text()
    assert "<table" not in text
    assert Page(text).open == []
    assert "Samples" not in text
