r"""Write what was measured of forgetting into the docs: our methods, and the literature beside us.

    python -m scripts.forgetting_table --report runs/forgetting/report.json \
        --report runs/regret/report.json --report runs/smoke/report.json --out docs/forgetting.md

The methods of every report become a table of their study, and reports of one study over several
bases a table of these by their size; a statement of the literature is judged
by the first report that carries it, and one that none carries keeps the row that the document has,
as do those of `--keep`.
Tables replace what is between their marks in the document; without `--out` they are printed.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence

from ftjax.studies import literature, verdicts
from scripts import runs

NAME = "scripts/forgetting_table.py"
NOT_RUN = " | not run | "
SIZES = ("parameters", "forgetting at the match", "at rate", "forgetting at the end")
HEADS = ("method", "forgetting at the match", "at rate", "difference", "forgetting at the end")


def measured(report: Mapping) -> str:
    """Write the methods of a study, from the one that forgets least at the match."""
    methods = report["methods"]
    least = lambda name: methods[name]["matched"].get("value", float("inf"))
    rows = [
        _row(name, methods[name], report["compared"][name]) for name in sorted(methods, key=least)
    ]
    return runs.markdown(HEADS, rows)


def sized(reports: Sequence[Mapping]) -> str:
    """Write what one method forgot over bases of several sizes, a report each."""
    rows = []
    for report in sorted(reports, key=lambda report: report["base_parameters"]):
        name = verdicts.method_of(report, "sized")
        _, *own = _row(name, report["methods"][name], "")
        rows.append((f"{report['base_parameters'] / 1e6:.2f} M", own[0], own[1], own[3]))
    return runs.markdown(SIZES, rows)


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


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--report", action="append", required=True, help="report.json; repeated")
    p.add_argument("--out", default="", help="Markdown file that the tables go into")
    p.add_argument(
        "--keep", default="", help="statements whose rows stay as the file has them: 2,4"
    )
    return p


def main() -> None:
    """Read the reports and write the tables."""
    given = parser().parse_args()
    reports = [json.loads(pathlib.Path(path).read_text(encoding="utf-8")) for path in given.report]
    for name in dict.fromkeys(map(_study, reports)):
        own = [report for report in reports if _study(report) == name]
        is_sized = all(verdicts.method_of(report, "sized") for report in own)
        table = sized(own) if is_sized else measured(own[-1])
        runs.publish(table, given.out, name=f"{NAME}: {name}")
    findings = literature.judge(reports)
    known = _rows(pathlib.Path(given.out)) if given.out else {}
    table = _kept(literature.table(findings), findings, known, keep=given.keep.split(","))
    runs.publish(table, given.out, name=f"{NAME}: literature")


def _study(report: Mapping) -> str:
    return pathlib.PurePosixPath(report["study"]["config"].partition(":")[0]).name


def _rows(page: pathlib.Path) -> dict[str, str]:
    """Return the rows of statements that a document has and that were run, by their number."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    own = text.partition(f"<!-- table of {NAME}: literature -->")[2].partition(runs.END)[0]
    rows = [row for row in own.splitlines() if row.startswith("| ") and NOT_RUN not in row]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def _kept(table: str, findings: Sequence, known: Mapping[str, str], keep: Sequence[str]) -> str:
    """Return the table with the known rows of those to keep, and of those no report carries."""
    head, line, *rows = table.splitlines()
    chosen = []
    for each, row in zip(findings, rows, strict=True):
        number = str(each.statement.number)
        stays = number in keep or not each.study
        chosen.append(known.get(number, row) if stays else row)
    return "\n".join([head, line, *chosen])


if __name__ == "__main__":
    main()
