"""The report of a run: one HTML page that needs nothing but itself.

    write(workdir / "report.html", title="LoRA on tsql", config=config, rows=read(metrics_file),
          samples=[Sample("Count the users.", before="...", after="SELECT ...")], table=learned)

Curves are inline SVG, colours follow the reader's light or dark setting, all text is escaped.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2

from ftjax.core import files
from ftjax.report import curves
from ftjax.report.table import GROUPS, Table, number, signed, table_text

__all__ = ["Sample", "table_text", "write"]

TEMPLATES = pathlib.Path(__file__).parent / "templates"


class Sample(NamedTuple):
    """What the model wrote to one prompt before and after training; `target` where one is known."""

    prompt: str
    before: str
    after: str
    target: str | None = None


def write(
    path: os.PathLike | str,
    *,
    title: str,
    config: Mapping,
    rows: Sequence[Mapping] = (),
    samples: Sequence[Sample] = (),
    table: Table | None = None,
    facts: Mapping[str, object] | None = None,
) -> pathlib.Path:
    """Write the page to `path` and return it.

    rows: of metrics.jsonl. facts: a few headline numbers, shown in the order given.
    """
    plots = curves.collect(rows)
    drawings = {name: _draw(name, plots) for name in plots}
    found = dict(table=table, groups=GROUPS, plots=drawings, samples=samples)
    page = render("report.html", title=title, facts=facts, config=config, **found)
    return files.write_text(path, page)


def render(
    template: str, *, title: str, config: Mapping, facts: Mapping[str, object] | None = None,
    **found,
) -> str:  # fmt: skip
    """Render a page of the templates, with title, headline numbers and config as all of them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "signed": signed}
    shown = json.dumps(files.plain(dict(config)), indent=2, ensure_ascii=False)
    return environment.get_template(template).render(
        title=title, facts=facts or {}, config=shown, **found
    )


def _draw(title: str, plots: Mapping[str, Mapping]) -> str:
    """Draw one plot; an evaluation has one colour in all of them."""
    several = [name for series in plots.values() if len(series) > 1 for name in series]
    order = several if any(name in several for name in plots[title]) else ()
    return curves.svg(plots[title], title=title, order=order)
