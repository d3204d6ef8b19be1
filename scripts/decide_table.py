r"""Write what a decision found into the docs: its arms, and the literature beside us.

    python -m scripts.decide_table --out docs/decide.md
        --report runs/decide/decide.json runs/rare/decide.json

The arms are those of the first report; a statement of the literature is judged by the first that
has its arms. Tables replace what is between their marks in the document; without `--out` they are
printed. Ends with code 1 where a gate, a statement that must come out, did not.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

from ftjax.decide import arm_table, findings
from scripts import runs

NAME = "scripts/decide_table.py"
COLUMNS = ("arm", "score [95 %]", "hit", "miss", "training", "prompt", "a query", "cost",
           "chosen is cheaper")  # fmt: skip


def arms(record: Mapping) -> str:
    """Write the verdict and the table of every need."""
    parts = []
    for need, own in record["needs"].items():
        head, *rows = arm_table.rows(record, need)
        places = [i for i, name in enumerate(head) if name in (*COLUMNS, *arm_table.STALE)]
        kept = [[row[i] for i in places] for row in rows]
        parts.append(f"{own['text']}\n\n{runs.markdown([head[i] for i in places], kept)}")
    return "\n\n".join(parts)


def literature(found: Sequence[findings.Finding]) -> str:
    """Write the findings."""
    head, *rows = findings.table(found)
    return runs.markdown(head, rows)


def main() -> None:
    """Read the report and write the tables."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--report", required=True, nargs="+", help="decide.json, one or more")
    p.add_argument("--out", default="", help="Markdown file that the tables go into")
    given = p.parse_args()
    records = [json.loads(pathlib.Path(each).read_text(encoding="utf-8")) for each in given.report]
    found = findings.first_run([findings.judge(record) for record in records])
    runs.publish(arms(records[0]), given.out, name=f"{NAME}: arms")
    runs.publish(literature(found), given.out, name=f"{NAME}: literature")
    if failed := findings.gates(found):
        sys.exit(
            "\n".join(f"{each.verdict}: {each.statement.said}: {each.ours}" for each in failed)
        )


if __name__ == "__main__":
    main()
