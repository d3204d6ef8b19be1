r"""Write what was measured of forgetting into the docs: our methods, and the literature beside us.

    python -m scripts.forgetting_table --report runs/forgetting/report.json \
        --report runs/smoke/report.json --out docs/forgetting.md

The first report is the study whose methods are compared; a statement of the literature is judged
by the first report that carries it. Tables replace what is between their marks in the document;
without `--out` they are printed. `--add` leaves the methods as they are, and fills in statements
that the document has as not run: for reports of studies that come one after the other.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping

from ftjax.studies import literature, verdicts
from scripts import runs

NAME = "scripts/forgetting_table.py"
HEADS = ("method", "forgetting at the match", "at rate", "difference", "forgetting at the end")


def measured(report: Mapping) -> str:
    """Write the methods of a study, from the one that forgets least at the match."""
    methods = report["methods"]
    least = lambda name: methods[name]["matched"].get("value", float("inf"))
    rows = [
        _row(name, methods[name], report["compared"][name]) for name in sorted(methods, key=least)
    ]
    return runs.markdown(HEADS, rows)


def _row(name: str, own: Mapping, difference: str) -> tuple[str, ...]:
    matched = own["matched"]
    if matched["rate"] is None:
        return (f"`{name}`", matched["text"], "", difference, "")
    end = own["rates"][f"{matched['rate']:g}"]["end"]["forgetting"]
    edge = ", the edge of its sweep" if matched["at_edge"] else ""
    return (
        f"`{name}`",
        _interval(matched),
        f"{matched['rate']:g}{edge}",
        difference,
        _interval(end),
    )


def _interval(found: Mapping) -> str:
    if found["n"] == 1:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def added(table: str, document: str) -> str:
    """Take the rows of a document's table, and of a new one those that it has as not run."""
    _, _, rest = document.partition(f"<!-- table of {NAME}: literature -->")
    held = dict(map(_numbered, rest.partition(runs.END)[0].strip().splitlines()[2:]))
    is_run = lambda row: f"| {verdicts.NOT_RUN} |" not in row
    head, rows = table.splitlines()[:2], map(_numbered, table.splitlines()[2:])
    # The new wording of a statement, where neither was run.
    return "\n".join(
        [*head, *(held[n] if n in held and is_run(held[n]) else row for n, row in rows)]
    )


def _numbered(row: str) -> tuple[str, str]:
    return row.split("|")[1].strip(), row


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--report", action="append", required=True, help="report.json; repeated")
    p.add_argument("--out", default="", help="Markdown file that the tables go into")
    p.add_argument("--add", action="store_true", help="fill in what stands there as not run")
    return p


def main() -> None:
    """Read the reports and write the tables."""
    given = parser().parse_args()
    if given.add and not given.out:
        raise SystemExit("--add: got no --out; expected the document that it fills in")
    reports = [json.loads(pathlib.Path(path).read_text(encoding="utf-8")) for path in given.report]
    table = literature.table(literature.judge(reports))
    if given.add:
        table = added(table, pathlib.Path(given.out).read_text(encoding="utf-8"))
    else:
        runs.publish(measured(reports[0]), given.out, name=f"{NAME}: methods")
    runs.publish(table, given.out, name=f"{NAME}: literature")


if __name__ == "__main__":
    main()
