r"""Compare all adapter methods on one task and budget: what each learns, forgets and costs.

    python -m scripts.adapters_table --arg data=DATA --workdir runs/adapters --out docs/adapters.md

Runs every variant of the `sweep()` of configs/adapters_medical.py, each in a new process with its
own memory, in WORKDIR/<method>-<rate>; a WORKDIR that holds some of them goes on where it stopped.
A method's row is its run with the least eval/choice/nll. The table replaces what is between the
two marks in the document, or becomes one; without `--out` it is printed.
"""

import argparse
import pathlib
import statistics

from scripts import runs

CONFIG = "configs/adapters_medical.py"
CHOICE, NEW, OLD = "choice", ("medical",), ("wiki", "tinystories")
NAME = "scripts/adapters_table.py"
HEADS = ("method", "trainable", "rate", "new domain", "old domain", "ms/step", "MiB")


def variants(arg: str, only: str) -> dict[str, str]:
    """List label and arg of every run; `only` names methods."""
    from ftjax.core import config as conf

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


def losses(row: dict) -> dict[str, float]:
    """Average the nll of the domains of a row of metrics."""
    mean = lambda labels: statistics.fmean(row[f"eval/{label}/nll"] for label in labels)
    return {"choice": mean([CHOICE]), "new": mean(NEW), "old": mean(OLD)}


def outcome(label: str, workdir: pathlib.Path) -> dict:
    """Read what a run cost and what its first and last evaluations say."""
    from ftjax.report import writers

    summary, rows = (
        runs.summary_of(workdir / label),
        writers.read(workdir / label / "metrics.jsonl"),
    )
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
    return runs.markdown(HEADS, rows)


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
        runs.train(label, f"{CONFIG}:{arg}", workdir)
    runs.publish(table([outcome(label, workdir) for label in chosen]), given.out, name=NAME)


if __name__ == "__main__":
    main()
