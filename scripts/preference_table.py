r"""Compare preference objectives on held-out human preferences, each over several seeds.

    python -m scripts.preference_table --data DATA --workdir runs/hh --out docs/preferences.md

First the embedded base is fine-tuned on the chosen answers (WORKDIR/sft); from there DPO, KTO, ORPO
and SimPO learn with LoRA, each in new processes, in WORKDIR/<method>-<seed>. A WORKDIR that holds
some of them goes on where it stopped. `before` is the fine-tuned base by the same score; a value
after is the mean over the seeds with its 95 % confidence interval (Student's t).
"""

import argparse
import math
import pathlib
import statistics

from scripts import runs

NAME = "scripts/preference_table.py"
CONFIGS = {"DPO": "dpo_hh", "KTO": "kto_hh", "ORPO": "orpo", "SimPO": "simpo"}
HEADS = ("method", "accuracy before", "after", "reward margin before", "after", "old domains")
ACCURACY, MARGIN = "eval/pairs/accuracy", "eval/pairs/reward_margin"
OLD = ("eval/wiki/nll", "eval/tinystories/nll")


def first_stage(data: str, parts: str, steps: int) -> str:
    """Return the config of supervised fine-tuning on the chosen answers."""
    paths = "+".join(f"{data}/preference/{part}/train.jsonl.gz" for part in parts.split("+"))
    return f"configs/sft.py:path={paths},response=chosen,full,steps={steps}"


def outcome(folder: pathlib.Path) -> tuple[dict, dict]:
    """Read the first and the last evaluation of a run."""
    from ftjax.report import writers

    scored = [row for row in writers.read(folder / "metrics.jsonl") if ACCURACY in row]
    return scored[0], scored[-1]


def interval(values: list[float]) -> str:
    """Write the mean of a few values and the half-width of its 95 % confidence interval."""
    from scipy import stats

    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return f"{mean:.3f} ± {half:.3f}"


def row(method: str, found: list[tuple[dict, dict]]) -> list[str]:
    """Write the row of a method from the outcomes of its seeds."""
    cells = [method]
    for name in (ACCURACY, MARGIN):
        cells += [f"{found[0][0][name]:.3f}", interval([after[name] for _, after in found])]
    old = lambda row: statistics.fmean(row[name] for name in OLD)
    return [*cells, interval([old(after) - old(before) for before, after in found])]


def parser() -> argparse.ArgumentParser:
    """Describe the flags."""
    first, *rest = __doc__.split("\n\n")
    form = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=first, epilog="\n\n".join(rest), formatter_class=form)
    p.add_argument("--data", required=True, help="folder that holds preference/ and corpus/")
    p.add_argument("--methods", default=",".join(CONFIGS), help="names, comma-separated")
    p.add_argument("--seeds", type=int, default=3, help="runs of each method")
    p.add_argument("--parts", default="hh_helpful", help="folders of preference/, joined by +")
    p.add_argument("--steps", type=int, default=100, help="steps of each run")
    p.add_argument("--sft_steps", type=int, default=120, help="steps of the fine-tuning before")
    p.add_argument("--workdir", required=True, help="directory of the runs")
    p.add_argument("--out", default="", help="Markdown file that the table goes into")
    return p


def main() -> None:
    """Run what is missing and write the table."""
    given = parser().parse_args()
    workdir, rows = pathlib.Path(given.workdir), []
    runs.train("sft", first_stage(given.data, given.parts, given.sft_steps), workdir)
    base = f"base={workdir / 'sft' / 'export'},parts={given.parts}"
    common = f"data={given.data},{base},steps={given.steps}"
    for method in given.methods.split(","):
        labels = [f"{method}-{seed}" for seed in range(given.seeds)]
        for seed, label in enumerate(labels):
            print(label, flush=True)
            runs.train(label, f"configs/{CONFIGS[method]}.py:{common},seed={seed}", workdir)
        rows.append(row(method, [outcome(workdir / label) for label in labels]))
    runs.publish(runs.markdown(HEADS, rows), given.out, name=NAME)


if __name__ == "__main__":
    main()
