r"""Write what a decision found into the docs: its arms, and the literature beside us.

    python -m scripts.decide_table --report runs/decide/decide.json --out docs/decide.md

Tables replace what is between their marks in the document; without `--out` they are printed. Ends
with code 1 where a gate, a statement that must come out, did not.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping

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


def literature(record: Mapping) -> str:
    """Write the findings."""
    head, *rows = findings.table(findings.judge(record))
    return runs.markdown(head, rows)


def main() -> None:
    """Read the report and write the tables."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--report", required=True, help="decide.json")
    p.add_argument("--out", default="", help="Markdown file that the tables go into")
    given = p.parse_args()
    record = json.loads(pathlib.Path(given.report).read_text(encoding="utf-8"))
    runs.publish(arms(record), given.out, name=f"{NAME}: arms")
    runs.publish(literature(record), given.out, name=f"{NAME}: literature")
    if failed := findings.gates(findings.judge(record)):
        sys.exit(
            "\n".join(f"{each.verdict}: {each.statement.said}: {each.ours}" for each in failed)
        )


if __name__ == "__main__":
    main()
