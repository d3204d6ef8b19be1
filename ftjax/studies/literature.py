"""What the literature on forgetting says, and what a finished study says to it.

    findings = judge([report, ...])      # of report.json; the first that can carry a statement does
    print(table(findings))               # Markdown: the paper's numbers beside ours

A statement is computed from a report that has what it is about: `study.parts` names the methods
that play a part in it, `study.axes` their sweeps, `study.changes` what was measured of weights. It
agrees or disagrees where the numbers differ by more than the noise floor, and is "not resolved"
otherwise; a statement that no study carries was not run. Those marked `gate` are asserted by
tests of the studies that carry them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ftjax.studies import verdicts, verdicts_changes
from ftjax.studies.verdicts import Found


class Statement(NamedTuple):
    """A statement; number: its place in the docs. judge: report -> Found, None if not carried.

    across: "", or the part whose reports are judged all together: judge([report, ...]).
    """

    number: int
    claim: str
    source: str
    theirs: str
    gate: bool
    judge: Callable[[Any], Found | None] | None = None
    needs: str = ""  # what would answer it, where nothing has yet
    across: str = ""


class Finding(NamedTuple):
    """A statement beside what the first study that carries it says."""

    statement: Statement
    found: Found
    study: str  # of which config


def judge(reports: Sequence[Mapping]) -> list[Finding]:
    """Judge every statement by the first of the reports that carries it."""
    return [_first(statement, reports) for statement in STATEMENTS]


def _first(statement: Statement, reports: Sequence[Mapping]) -> Finding:
    if statement.across:
        own = [each for each in reports if verdicts.method_of(each, statement.across)]
        asked = [(own, own[0])] if own else []
    else:
        asked = [(report, report) for report in reports]
    for given, report in asked:
        if statement.judge and (found := statement.judge(given)):
            return Finding(statement, found, report["study"]["config"])
    return Finding(statement, Found("", verdicts.NOT_RUN), "")


def table(findings: Sequence[Finding]) -> str:
    """Write the findings as a table in Markdown; those that do not agree say why."""
    rows = [("#", "statement", "source", "theirs", "ours", "verdict", "study")]
    for each in findings:
        said, name = each.statement, each.study.partition(":")[0].rpartition("/")[2]
        study = f"`{name}`" if name else f"needs {said.needs}" if said.needs else ""
        rows.append((str(said.number), said.claim, said.source, said.theirs, each.found.ours,
                     _verdict(each.found), study))  # fmt: skip
    write = lambda row: "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |"
    return "\n".join([write(rows[0]), "|" + "---|" * len(rows[0]), *map(write, rows[1:])])


def _verdict(found: Found) -> str:
    """Write a verdict; one that does not agree with why."""
    is_plain = found.verdict in (verdicts.AGREE, verdicts.NOT_RUN) or not found.why
    return found.verdict if is_plain else f"{found.verdict}: {found.why}"


STATEMENTS = (
    Statement(1, "the base against itself has no change at all", "by definition", "0", True,
              verdicts_changes.zero),
    Statement(2, "at a matched score forgetting grows with the learning rate",
              "arXiv:2410.21228, 2509.20758", "in all their sweeps", True, verdicts.rate_grows),
    Statement(3, "a lower rank learns less and forgets less at equal steps",
              "arXiv:2405.09673; PEFT", "PEFT: r32 0.050, r64 0.059 nats", True, verdicts.rank),
    Statement(4, "LoRA forgets less than full fine-tuning, both rates tuned", "arXiv:2405.09673",
              "mostly one curve; less for code instructions", False,
              verdicts.versus("lora", "full")),
    Statement(5, "over a sequence of merged LoRAs it does not", "arXiv:2410.21228, figure 9",
              "all ranks fall faster than full", False, verdicts.sequence),
    Statement(6, "replay: forgetting falls with its share", "arXiv:2502.06042, 2403.08763",
              "1 % already shields", True, verdicts.replay),
    Statement(7, "self-generated replay is within twice of real replay", "arXiv:2605.26097",
              "nearly no forgetting", True, verdicts.self_replay,
              "`forgetting_remedies.py`"),
    Statement(8, "KL(base, model) on new rows predicts forgetting, better than the norm",
              "arXiv:2509.04259", "R² 0.96 toy, 0.71 Qwen2.5-3B", True,
              verdicts_changes.drift_predicts),
    Statement(9, "training on old data breaks 8; KL on old rows does not break",
              "none: it would follow", "", True, verdicts_changes.old_data_breaks_it),
    Statement(10, "LoRA makes intruders, more so with the rate and over tasks",
              "arXiv:2410.21228", "rank correlation with forgetting 0.97", True,
              verdicts_changes.intruders),
    Statement(11, "the change of full fine-tuning has a far higher rank than LoRA's",
              "arXiv:2405.09673", "10 to 100 times", True, verdicts_changes.change_rank),
    Statement(12, "on the way from base to model forgetting grows all along",
              "arXiv:2109.01903, 2309.06256", "best front of the alignment tax", True,
              verdicts_changes.path_is_monotone),
    Statement(13, "filtered own samples forget less than one arbitrary right answer",
              "arXiv:2509.04259", "RL keeps, SFT loses", True, verdicts.versus("rejection", "sft"),
              "`forgetting_rl.py`"),
    Statement(14, "frozen bottom layers forget less", "arXiv:2501.13453", "11 to 44 % kept", False,
              verdicts.versus("frozen_bottom", "full"),
              "`forgetting_remedies.py`"),
    Statement(15, "ten examples bring an old ability back", "arXiv:2501.13453", "0 to 99 %", False,
              verdicts.recovers("few"), "`forgetting_recovery.py`"),
    Statement(16, "Llama-3.2-3B on MetaMathQA", "PEFT's method comparison",
              "LoRA r32 0.478, +0.050 nats; full 0.472, +0.030", False,
              needs="`forgetting_8b.py` on a pod"),
    Statement(17, "GRPO forgets less than SFT at a matched score",
              "arXiv:2605.28819, 2510.18874", "general 48.7 against 34.2", True,
              verdicts.versus("grpo", "sft"), "`forgetting_rl.py`"),
    Statement(18, "LoRA's best rate is about ten times that of full fine-tuning",
              "LoRA Without Regret", "9.8; 15 in short runs", False, verdicts.rates),
    Statement(19, "LoRA of attention alone learns less than of the MLP", "LoRA Without Regret",
              "at equal parameters", False, verdicts.sites,
              "`lora_without_regret.py`"),
    Statement(20, "SFT overshoots: part of the way back is nearly free", "arXiv:2605.28819",
              "OFT at 0.4 better on both axes", True, verdicts_changes.overshoots),
    Statement(21, "OFT is on the front, PiSSA the worst for old tasks", "arXiv:2605.28819",
              "46.9/44.4 against 44.5/24.8", False, verdicts.arena, "`arena.py`"),
    Statement(22, "KL on old rows beats training on them", "arXiv:2508.06249",
              "for safety", True, verdicts.versus("kl_old", "replay")),
    Statement(23, "on-policy distillation recovers old abilities", "arXiv:2601.19897",
              "89 against 80 %", True,
              verdicts.recovers("distilled"), "`forgetting_recovery.py`"),
    Statement(24, "forgetting falls with free capacity", "arXiv:2502.06042, 2605.26097",
              "in three sizes", False, verdicts.capacity,
              "`forgetting_capacity.py` over three bases", across="sized"),
    Statement(25, "CKA on old text predicts forgetting better than the norm", "arXiv:2605.28819",
              "-0.76 against 0.35 to 0.49", False,
              verdicts_changes.states_predict, "a study with `states` among its `changes`"),
    Statement(26, "tuned LoRA variants tie within 1 to 2 %", "arXiv:2602.04998", "1 to 2 %", False,
              verdicts.variants_tie, "`arena.py`"),
    Statement(27, "refusals die within tens of steps", "marin#7943",
              "attacks 15.6 to 97.8 % after 10 steps", False,
              verdicts.rules_die, "`forgetting_rules.py`"),
)  # fmt: skip
