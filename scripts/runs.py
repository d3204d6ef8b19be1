"""What the scripts that tabulate many runs share: runs in processes of their own, and tables."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Sequence

END = "<!-- end of the table -->"


def train(label: str, config: str, workdir: pathlib.Path) -> None:
    """Train `file.py:arg` in WORKDIR/<label> unless it is done; what it prints goes to a file."""
    folder = workdir / label
    if summary_of(folder).get("stopped") == "done":
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "experiments.train", "--config", config]
    with open(workdir / f"{label}.log", "w", encoding="utf-8") as log:
        subprocess.run(
            [*command, "--workdir", str(folder)], stdout=log, stderr=subprocess.STDOUT, check=True
        )


def summary_of(folder: pathlib.Path) -> dict:
    """Read a run's summary; empty where it has not ended."""
    path = folder / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    # A bar within a cell would begin another one.
    line = lambda row: "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
    return "\n".join([line(heads), line(("---",) * len(heads)), *map(line, rows)])


def publish(table: str, out: str, *, name: str) -> None:
    """Print a table, or put it into the document `out`."""
    if not out:
        print(table)
        return
    path = pathlib.Path(out)
    document = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(insert(document, table, name=name), encoding="utf-8")


def insert(document: str, table: str, *, name: str) -> str:
    """Put the table of the script `name` between its marks in a document, or at its end."""
    first = f"<!-- table of {name} -->"
    own = f"{first}\n\n{table}\n\n{END}"
    if first not in document:
        return f"{document}\n{own}\n".lstrip("\n")
    head, _, rest = document.partition(first)
    return head + own + rest.partition(END)[2]
