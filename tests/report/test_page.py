import html.parser
import re

import pytest

from ftjax.report import curves
from ftjax.report import page as report
from ftjax.report.table import Row, table, table_text

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
        samples=[report.Sample("<script>alert(1)</script>", before="b & c", after="d", target="e")],
        table=table(RUNS, groups=GROUPS),
        facts={"tokens": "1 M"},
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
    ):
        assert part in text
    kinds = [attributes.get("class", "") for _, attributes in read.tags]
    assert sum("change better" in kind for kind in kinds) == 3
    assert sum("change worse" in kind for kind in kinds) == 1


def test_the_page_asks_nobody_for_anything(page):
    read = Page(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in read.tags}
    for _, attributes in read.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
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
    assert curves.collect(rows) == {
        "loss": {"loss": ([2], [0.5])},
        "evaluation: nll": {"a": ([1], [1.0]), "b": ([2], [3.0])},
        "grad norm": {"grad_norm": ([1], [2.0])},
    }
    assert next(iter(curves.collect(rows))) == "loss"


def test_a_page_of_nothing_but_a_title(tmp_path):
    text = report.write(tmp_path / "r.html", title="empty", config={}).read_text()
    assert Page(text).open == []
    assert "Samples" not in text
