"""What a report shows of a run, from its workdir: costs, how it was made, samples, failures."""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from ftjax.core import provenance
from ftjax.report import goodput, writers
from ftjax.report import page as report
from ftjax.run.artifacts import Artifacts

SHOWN = 4  # failures of each evaluation
MFU = {
    "mfu": "MFU of tokens, median", "mfu_causal": "MFU of tokens, causal attention, median",
    "mfu_padded": "MFU with padding, median",
    "mfu_padded_causal": "MFU with padding, causal attention, median",
}  # fmt: skip
LONGEST = 2_000  # characters of a text
MADE = ("command", "directory", "host", "git_commit", "started", "ended")
FILES = {  # of a workdir, beside the report
    "config.json": "the settings", "summary.json": "numbers", "metrics.jsonl": "curves",
    "evals": "scores and answers of every example", "samples": "texts",
    "export/README.md": "the model card",
}  # fmt: skip


# -- costs -----------------------------------------------------------------------------------------


def costs(found: Mapping[str, Mapping], rows: Mapping[str, Sequence[Mapping]]) -> report.Grid:
    """Lay the costs of runs out, a column each; found: their summaries, rows: of their metrics."""
    columns = [_costs(summary, rows[label]) for label, summary in found.items()]
    names = dict.fromkeys(name for own in columns for name in own)
    return report.Grid(
        ["", *found], [[name, *(own.get(name, "n/a") for own in columns)] for name in names]
    )


def _costs(summary: Mapping, rows: Sequence[Mapping]) -> dict[str, str]:
    parameters, devices = summary["parameters"], summary["devices"]
    own, whole = parameters["trainable"], parameters["total"]
    memory = [row.get(writers.CLOCK + "memory_gib", 0.0) for row in rows]
    found = {
        "trainable parameters": f"{own:,} ({own / whole:.2%})",
        "parameters": f"{whole:,}",
        "tokens": f"{summary['tokens']:,}",
        "tokens/s, median": _median(rows, "tokens_per_s", "{:,.0f}"),
        **{what: _median(rows, name, "{:.1%}") for name, what in MFU.items()},
        "memory of a device, at most": f"{max(memory, default=0.0):.2f} GiB",
        "devices": f"{devices['count']} x {devices['kind']}",
    }
    # A run that has ended knows what came after its last row too.
    known = summary.get("goodput") or {"seconds": goodput.spent(rows)}
    found |= {"goodput": f"{known['share']:.0%}"} if "share" in known else {}
    # What never happened, as a restart, is no line; steps are one in any case.
    shown = {name: each for name, each in known["seconds"].items() if each or name == "steps"}
    found |= {goodput.PHASES[name]: writers.duration(each) for name, each in shown.items()}
    return {name: value for name, value in found.items() if value}


def _median(rows: Sequence[Mapping], name: str, form: str) -> str:
    values = [row[writers.CLOCK + name] for row in rows if row.get(writers.CLOCK + name)]
    return form.format(statistics.median(values)) if values else ""


# -- how it was made -------------------------------------------------------------------------------


def made(summary: Mapping, **more: str) -> dict[str, str]:
    """Say how a run was made, from its summary; more: before the versions."""
    found = {name: str(summary[name]) for name in MADE if summary.get(name)}
    versions = ", ".join(f"{name} {text}" for name, text in summary.get("versions", {}).items())
    return found | more | {"versions": versions}


def made_here(**more: str) -> dict[str, str]:
    """Say how a page of several runs was made, by this process."""
    now = provenance.of_process(seconds=0.0)
    return {name: str(now[name]) for name in MADE if name != "started" and now[name]} | more


def links(workdir: pathlib.Path) -> dict[str, str]:
    """List the files beside a report that are there."""
    return {name: what for name, what in FILES.items() if (workdir / name).exists()}


# -- texts -----------------------------------------------------------------------------------------


def samples(workdirs: Mapping[str, pathlib.Path]) -> list[report.Sample]:
    """Put the samples of runs side by side, by prompt: before the first, then each run's last."""
    found: dict[str, dict[str, str]] = {}
    for label, workdir in workdirs.items():
        own = Artifacts(workdir)
        if not (steps := own.sampled()):
            continue
        read = lambda step, own=own: json.loads(own.sample(step).read_text(encoding="utf-8"))
        first, last = read(steps[0]), read(steps[-1])
        # By prompt: some may have been added when the run went on.
        before = {old["prompt"]: old["text"] for old in first}
        for new in last:
            texts = found.setdefault(new["prompt"], {})
            texts.setdefault("before", before.get(new["prompt"], "(not asked)"))
            texts[label] = new["text"]
    return [report.Sample(prompt, texts) for prompt, texts in found.items()]


def failures(workdir: pathlib.Path, groups: Mapping[str, str]) -> list[report.Failure]:
    """Choose examples that were right before and are wrong now, and new ones that are still wrong.

    groups: of every evaluation. Those that keep no answers have none.
    """
    own, found = Artifacts(workdir), []
    steps = own.evaluated()
    for label, group in groups.items() if steps else ():
        paths = [own.answers(label, step) for step in (steps[0], steps[-1])]
        if not all(path.is_file() for path in paths):
            continue
        told = [_lines(path) for path in paths]
        right = [_right(own, label, step) for step in (steps[0], steps[-1])]
        if len({*map(len, told), *map(len, right)}) > 1:  # other examples than at first
            continue
        lost = np.flatnonzero((right[0] == 1) & (right[1] < 1))
        wrong = np.flatnonzero(right[1] < 1) if group == "new" else lost
        what = "wrong after training" if group == "new" else "right before, wrong after"
        found += [report.Failure(label, what, _pair(told[0][i], told[1][i])) for i in wrong[:SHOWN]]
    return found


def _lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _right(own: Artifacts, label: str, step: int) -> np.ndarray:
    with np.load(own.scores(step)) as arrays:
        return arrays.get(f"{label}/exact_match", np.zeros(0))


def _pair(before: Mapping, after: Mapping) -> report.Sample:
    texts = {"before": before["answer"][:LONGEST], "after": after["answer"][:LONGEST]}
    target = " | ".join(after["target"])[:LONGEST]
    return report.Sample(_shown(after["prompt"]), texts, target)


def _shown(prompt) -> str:
    """Write a prompt: a text, or messages."""
    if isinstance(prompt, Mapping):
        prompt = prompt["messages"]
    if isinstance(prompt, str):
        return prompt[:LONGEST]
    return "\n".join(f"{each['role']}: {each['content']}" for each in prompt)[:LONGEST]
