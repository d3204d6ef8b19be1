r"""Compare all adapter methods on one task and budget: what each learns, forgets and costs.

    python -m scripts.adapters_table --arg data=DATA --workdir runs/adapters --out docs/adapters.md

Runs every variant of the `sweep()` of configs/adapters_medical.py, each in a new process with its
own memory, in WORKDIR/<method>-<rate>; a WORKDIR that holds some of them goes on where it stopped.
A method's row is its run with the least eval/choice/nll. The table replaces what is between the
two marks in the document, or becomes one; without `--out` it is printed.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

CONFIG = "configs/adapters_medical.py"
CHOICE, NEW, OLD = "choice", ("medical",), ("wiki", "tinystories")
MARKS = "<!-- table of scripts/adapters_table.py -->", "<!-- end of the table -->"
HEADS = ("method", "trainable", "rate", "new domain", "old domain", "ms/step", "MiB")


def variants(arg: str, only: str) -> dict[str, str]:
    """List label and arg of every run; `only` names methods."""
    from ftjax.core import conf

    chosen = set(filter(None, only.split(",")))
    found = conf.load_function(CONFIG, "sweep")()
    kept = {n: text for n, text in found.items() if not chosen or method_of(n) in chosen}
    if unknown := chosen - {method_of(label) for label in found}:
        legal = dict.fromkeys(map(method_of, found))
        raise ValueError(f"--methods: got {sorted(unknown)}; expected some of {', '.join(legal)}")
    return {label: ",".join(filter(None, [arg, text])) for label, text in kept.items()}


def method_of(label: str) -> str:
    """Take the method out of <method>-<rate>; a rate may have a minus itself."""
    return label.partition("-")[0]


def run(label: str, arg: str, workdir: pathlib.Path) -> None:
    """Train one variant in a new process, unless it is done; what it prints goes to a file."""
    folder = workdir / label
    if summary_of(folder).get("stopped") == "done":
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "experiments.train", "--config", f"{CONFIG}:{arg}"]
    with open(workdir / f"{label}.log", "w", encoding="utf-8") as log:
        subprocess.run(
            [*command, "--workdir", str(folder)], stdout=log, stderr=subprocess.STDOUT, check=True
        )


def summary_of(folder: pathlib.Path) -> dict:
    """Read a run's summary; empty where it has not ended."""
    path = folder / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def losses(row: dict) -> dict[str, float]:
    """Average the nll of the domains of a row of metrics."""
    mean = lambda labels: statistics.fmean(row[f"eval/{label}/nll"] for label in labels)
    return {"choice": mean([CHOICE]), "new": mean(NEW), "old": mean(OLD)}


def outcome(label: str, workdir: pathlib.Path) -> dict:
    """Read what a run cost and what its first and last evaluations say."""
    from ftjax.train import metrics

    summary, rows = summary_of(workdir / label), metrics.read(workdir / label / "metrics.jsonl")
    scored = [row for row in rows if f"eval/{CHOICE}/nll" in row]
    seconds = [row["time/step_s"] for row in rows if "time/step_s" in row]
    return {
        "method": method_of(label),
        "rate": label.partition("-")[2],
        "trainable": summary["parameters"]["trainable"],
        "seconds": statistics.median(seconds),
        "bytes": summary["memory_bytes"],
        "before": losses(scored[0]),
        "after": losses(scored[-1]),
    }


def best(outcomes: list[dict]) -> list[dict]:
    """Choose each method's learning rate."""
    methods = dict.fromkeys(own["method"] for own in outcomes)
    of = lambda method: [own for own in outcomes if own["method"] == method]
    return [min(of(method), key=lambda own: own["after"]["choice"]) for method in methods]


def table(outcomes: list[dict]) -> str:
    """Write the table in Markdown: the base, then the methods from the least loss on."""
    before = outcomes[0]["before"]
    rows = [("base", "", "", f"{before['new']:.3f}", f"{before['old']:.3f}", "", "")]
    for own in sorted(best(outcomes), key=lambda own: own["after"]["new"]):
        after, change = own["after"], own["after"]["old"] - before["old"]
        rows.append((
            own["method"], f"{own['trainable']:,}", own["rate"], f"{after['new']:.3f}",
            f"{after['old']:.3f} ({change:+.3f})", f"{1000 * own['seconds']:.0f}",
            f"{own['bytes'] / 2**20:.0f}",
        ))  # fmt: skip
    line = lambda row: "| " + " | ".join(row) + " |"
    return "\n".join([line(HEADS), line(("---",) * len(HEADS)), *map(line, rows)])


def insert(document: str, text: str) -> str:
    """Put the table between the marks of a document, or at its end."""
    first, last = MARKS
    own = f"{first}\n\n{text}\n\n{last}"
    if first not in document:
        return f"{document}\n{own}\n".lstrip("\n")
    head, _, rest = document.partition(first)
    return head + own + rest.partition(last)[2]


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--arg", default="", help="for every run, such as data=DATA,steps=200")
    p.add_argument("--methods", default="", help="names, comma-separated; all if not given")
    p.add_argument("--workdir", required=True, help="directory of the runs")
    p.add_argument("--out", default="", help="Markdown file that the table goes into")
    return p


def main() -> None:
    """Run what is missing and write the table."""
    given = parser().parse_args()
    workdir = pathlib.Path(given.workdir)
    chosen = variants(given.arg, given.methods)
    for label, arg in chosen.items():
        print(label, flush=True)
        run(label, arg, workdir)
    text = table([outcome(label, workdir) for label in chosen])
    if not given.out:
        print(text)
        return
    out = pathlib.Path(given.out)
    document = out.read_text(encoding="utf-8") if out.is_file() else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(insert(document, text), encoding="utf-8")


if __name__ == "__main__":
    main()
