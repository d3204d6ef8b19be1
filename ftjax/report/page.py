"""The report of a run: one HTML page that needs nothing but itself.

    write(workdir / "report.html", title="LoRA on tsql", config=config, rows=read(metrics_file),
          samples=[Sample("Count the users.", {"before": "...", "after": "SELECT ..."})],
          table=learned)

Drawings are inline SVG, colours follow the reader's light or dark setting, all text is escaped, and
links are to files beside the page.
"""

import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2

from ftjax.core import files
from ftjax.report import changes, curves
from ftjax.report.table import GROUPS, Table, interval, number, signed, table_text

__all__ = ["Failure", "Grid", "Sample", "render", "table_text", "write"]

TEMPLATES = pathlib.Path(__file__).parent / "templates"


class Sample(NamedTuple):
    """What was written to one prompt, by who wrote it; `target` where one is known."""

    prompt: str
    texts: Mapping[str, str]
    target: str | None = None


class Failure(NamedTuple):
    """An example of an evaluation that is answered wrongly; what: since when."""

    label: str
    what: str
    sample: Sample


class Grid(NamedTuple):
    """A table of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(
    path: os.PathLike | str,
    *,
    title: str,
    config: Mapping,
    rows: Sequence[Mapping] = (),
    samples: Sequence[Sample] = (),
    table: Table | None = None,
    facts: Mapping[str, object] | None = None,
    jobs: Grid | None = None,
    effects: Mapping[str, str] | None = None,
    costs: Grid | None = None,
    failures: Sequence[Failure] = (),
    made: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> pathlib.Path:
    """Write the page to `path` and return it.

    rows: of metrics.jsonl. facts: a few headline numbers, shown in the order given. jobs: of a
    sweep, a row each. effects: figures of what its keys do, by their captions. costs: a row each, a
    column for every run. made: how it was made, by name. links: what there is beside the page, by
    its path from there.
    """
    table = table if table and table.rows else None  # of a run without evaluations
    plots = curves.collect(rows)
    found = dict(
        table=table, groups=GROUPS, plots={name: _draw(name, plots) for name in plots},
        trades=changes.trades(table) if table else {}, samples=samples, jobs=jobs, costs=costs,
        effects=effects or {},
        evaluations=changes.figures(table) if table else {}, failures=failures, made=made or {},
        links=links or {}, outcomes=outcomes(table) if table else [],
    )  # fmt: skip
    page = render("report.html", title=title, facts=facts, config=config, **found)
    return files.write_text(path, page)


def outcomes(table: Table) -> list[str]:
    """Say in a line for each run how many metrics are better and worse, new and old."""
    lines = []
    for column, name in list(enumerate(table.columns))[1:]:
        told = []
        for group, what in (("new", "of the new task"), ("old", "of old abilities")):
            own = [row.verdict(column) for row in table.rows if row.group == group]
            if own:
                better, worse = own.count("better"), own.count("worse")
                told.append(f"{better} of {len(own)} metrics {what} better, {worse} worse")
        lines += [f"{name}: {'; '.join(told)}"] if told else []
    return lines


def render(
    template: str, *, title: str, config: Mapping, facts: Mapping[str, object] | None = None,
    **found,
) -> str:  # fmt: skip
    """Render a page of the templates, with title, headline numbers and config as all of them."""
    shown = json.dumps(files.plain(dict(config)), indent=2, ensure_ascii=False)
    return (
        _environment()
        .get_template(template)
        .render(title=title, facts=facts or {}, config=shown, **found)
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """Make what reads the templates: once, for it compiles each that it has not met."""
    own = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    own.filters |= {"number": number, "signed": signed, "interval": interval}
    return own


def _draw(title: str, plots: Mapping[str, Mapping]) -> str:
    """Draw one plot; an evaluation has one colour in all of them."""
    several = [name for series in plots.values() if len(series) > 1 for name in series]
    order = several if any(name in several for name in plots[title]) else ()
    return curves.svg(plots[title], title=title, order=order)
