"""The table of a decision, arm by arm: columns of strings, for the terminal and the page.

rows(record, "facts")      [["lora", "0.912 [0.862, 0.957]", ...], ...], the head first
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ftjax.decide import arms, findings

HEAD = (
    "arm", "score [95 %]", "hit", "miss", "cited", "labels", "training", "prompt", "new",
    "ms", "a query", "cost", "chosen is cheaper",
)  # fmt: skip
STALE = ("update", "stale", "stale before")  # where the knowledge has changed
SIGNED = {"nll": "minus nll, nats a token"}  # metrics of which less is better
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def rows(record: Mapping[str, Any], need: str) -> list[list[str]]:
    """Lay out the arms of a need; a ceiling and an arm that failed are marked as such."""
    own = record["needs"][need]
    found = [[*HEAD[:2], *(STALE if own["stale"] else ()), *HEAD[2:]]]
    places = [i for i, item in enumerate(record["items"]) if item["need"] == need]
    for label, arm in record["arms"].items():
        if "error" in arm:
            found.append([f"{label} (failed)", *[""] * (len(found[0]) - 1)])
            continue
        found.append(_row(label, arm, own, places))
    return found


def _row(label: str, arm: Mapping, own: Mapping, places: list[int]) -> list[str]:
    score, cost = own["scores"][label], own["costs"][label]
    cites = own["retrieval"].get(label, {})
    mean = lambda key: sum(arm[key][i] for i in places) / len(places)
    marks = "*" if label == own["chosen"] else "" if label in own["candidates"] else " -"
    marks = " (ceiling)" if arms.ARMS[arm["name"]].is_ceiling else marks
    return [
        f"{label}{marks}",
        f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]",
        *_stale(own, label),
        *(number(cites.get(key)) for key in ("hit", "miss", "cited")),
        f"{cost['labels']:,}",
        amount(cost["train_flops"]),
        f"{mean('prompt_tokens'):.0f}",
        f"{mean('new_tokens'):.0f}",
        f"{1000 * cost['query_s']:.1f}" if arm["latency"] else "",
        amount(cost["query_flops"]),
        amount(own["totals"][label]),
        when(own["break_even"].get(label)),
    ]


def _stale(own: Mapping, label: str) -> list[str]:
    if not own["stale"]:
        return []
    found = own["stale"][label]
    return [amount(own["costs"][label]["update_flops"]),
            number(found["after"]), number(found["before"])]  # fmt: skip


def when(found: Mapping | None) -> str:
    """Write a break-even."""
    if found is None:
        return ""
    return found["kind"] if found["queries"] is None else f"{found['kind']} {found['queries']:,.0f}"


def number(value: float | None) -> str:
    """Write a share or score, "" where there is none."""
    return "" if value is None else f"{value:.3f}"


def amount(value: float) -> str:
    """Write a cost with a prefix of thousands, such as 3.2 T."""
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def text(record: Mapping[str, Any]) -> str:
    """Write verdicts, tables, and what the numbers rest on, in plain text."""
    parts = []
    for need, own in record["needs"].items():
        parts.append(f"{own['text']}\n\n{_aligned(rows(record, need))}")
        parts += [f"  {line}" for line in notes(own)]
        parts.append("")
    old = forgotten(record)
    parts += [_aligned(old), ""] if old else []
    said = literature(record)
    parts += [_aligned(said), ""] if said else []
    return "\n".join([*parts, *rules(record)])


def notes(own: Mapping) -> list[str]:
    """Write the diagnosis of a need, and what would change its verdict."""
    lines = [
        f"{each['test']}: {each['finding']} "
        f"({', '.join(f'{k} {v:.3f}' for k, v in each.items() if k not in ('test', 'finding'))})"
        for each in own["diagnosis"]
    ]
    lines += [
        f"{each['arm']} would be taken from {each['input']} = {each['at']:,.4g} on "
        f"{'up' if each['at'] > each['now'] else 'down'} (now {each['now']:,.4g})"
        for each in own["flips"]
    ]
    if not own["flips"]:
        lines.append("no input of the cost changes the choice")
    if own["clusters"] < own["questions"]:
        lines.append(
            f"{own['questions']} questions are of {own['clusters']} clusters, resampled whole"
        )
    return lines


def rules(record: Mapping[str, Any]) -> list[str]:
    """Write what the comparison rests on."""
    done = {label: each for label, each in record["arms"].items() if "error" not in each}
    trials = {label: len(each["trials"]) for label, each in done.items()}
    equal = len(set(trials.values())) == 1
    seeds = max(len(each["seeds"]) for each in done.values())
    metric = SIGNED.get(record["metric"], record["metric"])
    lines = [
        f"* chosen, - worse than the best (Holm, 5 %); {metric}; base {record['base']}; "
        f"{seeds} seed(s) of trained arms; test questions were answered once an arm and seed",
        f"trials an arm: {next(iter(trials.values())) if equal else trials}"
        + ("" if equal else ": effort was not equal"),
        f"test questions in training rows: {record['overlap']['train']} (refused); with 13-grams "
        f"of passages: {record['overlap']['passages']}",
    ]
    if found := record["retrieval"]:
        shown = ", ".join(f"{k} {v:.3f}" for k, v in found.items() if k != "questions")
        lines.append(f"retrieval over {found['questions']} questions: {shown}")
    if cut := record.get("documents_cut"):
        lines.append(f"documents longer than a passage may be, cut: {cut}")
    for label, each in done.items():
        if each["left_out"]:
            counts = ", ".join(f"{n} {what}" for what, n in each["left_out"].items())
            lines.append(f"{label}: left out: {counts}")
        if len(each["validation"]) > 1:
            best, median = max(each["validation"]), statistics.median(each["validation"])
            chosen = each["trials"][each["trial"]]
            lines.append(
                f"{label}: validation: best {best:.3f}, median {median:.3f} of "
                f"{len(each['validation'])} trials; chosen: {_shown(chosen)}"
            )
    lines += [f"{label} failed: {each['error']}" for label, each in record["arms"].items()
              if "error" in each]  # fmt: skip
    return lines


def _shown(trial: Mapping[str, Any]) -> str:
    """Write what a trial has set."""
    plain = dataclasses.asdict(arms.Trial())
    own = ", ".join(f"{key}={value!r}" for key, value in trial.items() if value != plain[key])
    return own or "the defaults"


def forgotten(record: Mapping[str, Any]) -> list[list[str]]:
    """Lay out old abilities by arm: score, and the change from the base's with its interval."""
    probes = list(next(iter(record["forgetting"].values()), {}))
    if not probes:
        return []
    show = "{score:.3f}  {change:+.3f} [{low:+.3f}, {high:+.3f}]"
    rows = [
        [label, *(show.format_map(own[probe]) for probe in probes)]
        for label, own in record["forgetting"].items()
    ]
    return [["old abilities, with the arm's prompt", *probes], *rows]


def literature(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Lay out what the literature says beside us, of the statements whose arms are here."""
    found = [each for each in findings.judge(record) if each.verdict != findings.NOT_RUN]
    return findings.table(found) if found and record["config"].get("gates") else []


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    align = lambda cell, i: cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
    return "\n".join(
        "  ".join(align(cell, i) for i, cell in enumerate(row)).rstrip() for row in table
    )
