"""What the literature says of prompting, retrieval and training, and what a decision says to it.

    found = judge(record)                of decide.json
    gates(found)                         those that must come out and do not
    table(found)                         rows: the paper's numbers beside ours

A statement is about differences between arms on the questions of one need. It agrees where the
interval (95 %, bootstrap over items and seeds) of every difference lies on the side that it says,
disagrees where one lies on the other side, and is not resolved otherwise. That something does
nothing agrees where the whole interval lies within MARGIN of 0, and disagrees where it lies beyond
that. Without its arms a statement is not run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ftjax.data.worlds import facts
from ftjax.decide import significance
from ftjax.evals.lib import bootstrap

AGREES, DISAGREES, OPEN, NOT_RUN = "agree", "disagree", "not resolved", "not run"
MARGIN = 0.1  # of a score: less than that is "nothing", which 64 questions can tell
HEADS = ("statement", "source", "theirs", "ours", "verdict")


class Claim(NamedTuple):
    """A difference and the side that it should lie on: 1 above 0, 0 nowhere, -1 below."""

    shown: str
    low: float
    high: float
    side: int = 1

    @property
    def verdict(self) -> str:
        """Agree, disagree, or not resolved."""
        if self.side == 0:
            inside = self.low > -MARGIN and self.high < MARGIN
            outside = self.low > MARGIN or self.high < -MARGIN
            return AGREES if inside else DISAGREES if outside else OPEN
        low, high = sorted((self.side * self.low, self.side * self.high))
        return AGREES if low > 0 else DISAGREES if high < 0 else OPEN


class Statement(NamedTuple):
    """A statement; gate: it must come out. claims: record -> its differences, None without arms."""

    said: str
    source: str
    theirs: str
    gate: bool
    claims: Callable[[Mapping], list[Claim] | None]


class Finding(NamedTuple):
    """A statement beside what a decision says of it."""

    statement: Statement
    ours: str
    verdict: str


def judge(record: Mapping[str, Any]) -> list[Finding]:
    """Judge every statement by what decide.json holds."""
    found = []
    for statement in STATEMENTS:
        claims = statement.claims(record)
        ours = "; ".join(each.shown for each in claims or ())
        found.append(Finding(statement, ours, _joined(claims)))
    return found


def first_run(found: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Take every statement from the first of several decisions that runs it."""
    run = lambda every: next((each for each in every if each.verdict != NOT_RUN), every[0])
    return [run(every) for every in zip(*found, strict=True)]


def _joined(claims: Sequence[Claim] | None) -> str:
    verdicts = {each.verdict for each in claims or ()}
    if not verdicts:
        return NOT_RUN
    return DISAGREES if DISAGREES in verdicts else OPEN if OPEN in verdicts else AGREES


def gates(found: Sequence[Finding]) -> list[Finding]:
    """Return the gates that did not come out."""
    return [each for each in found if each.statement.gate and each.verdict != AGREES]


def table(found: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Lay out the findings, the head first; gates are marked."""
    return [HEADS] + [
        (each.said, each.source, each.theirs, ours, f"**{verdict}**" if each.gate else verdict)
        for each, ours, verdict in found
    ]


# -- differences -----------------------------------------------------------------------------------


class _Scored(NamedTuple):
    """The scores [seeds, items] of an arm, and the cluster of every item."""

    scores: np.ndarray
    clusters: np.ndarray

    def only(self, chosen: Sequence[bool]) -> "_Scored":
        return _Scored(self.scores[:, chosen], self.clusters[chosen])


def _scores(
    record: Mapping, need: str, arm: str, key: str = "scores", told: str = ""
) -> _Scored | None:  # fmt: skip
    """Return the scores of an arm; told: of the questions whose facts training told so often."""
    own, items = record["arms"].get(arm, {}), record["old_items" if key == "old" else "items"]
    places = [i for i, item in enumerate(items) if key == "old" or item["need"] == need]
    places = [i for i in places if not told or items[i].get("told") == told]
    if not places or "error" in own or key not in own:
        return None
    clusters = np.array([items[i]["cluster"] for i in places])
    return _Scored(np.array(own[key], float)[:, places], clusters)


def _between(
    need: str, more: str, less: str, *, side: int = 1, key: str = "scores", told: str = ""
) -> Callable:  # fmt: skip
    """Compare two arms on the same questions; told: see `_scores`."""

    def claim(record: Mapping) -> Claim | None:
        a, b = (_scores(record, need, arm, key, told) for arm in (more, less))
        if a is None or b is None:
            return None
        draws = _paired(a, b, seed=0)
        low, high = bootstrap.interval(draws, level=significance.LEVEL)
        if low == high:  # no item differs: of n, three in n may (the rule of three)
            wide = 3 / len(set(a.clusters)) * (side == 0)
            low, high = low - wide, high + wide
        shown = _shown(more, a, less, b, low, high)
        return Claim(f"told {told}: {shown}" if told else shown, low, high, side)

    return claim


def _paired(a: _Scored, b: _Scored, *, seed: int) -> np.ndarray:
    """Draw the difference of two means over the same items."""
    draws = significance.draws({"a": a.scores, "b": b.scores}, seed=seed, clusters=a.clusters)
    return draws["a"] - draws["b"]


def _lead(need: str, more: str, less: str, *, told: tuple[str, str]) -> Callable:
    """Compare one arm's lead over another on facts told so often with that on others."""

    def claim(record: Mapping) -> Claim | None:
        pairs = [[_scores(record, need, arm, told=own) for arm in (more, less)] for own in told]
        if None in [each for pair in pairs for each in pair]:
            return None
        one, other = (_paired(*pair, seed=seed) for seed, pair in enumerate(pairs))
        low, high = bootstrap.interval(one - other, level=significance.LEVEL)
        leads = [a.scores.mean() - b.scores.mean() for a, b in pairs]
        shown = f"{leads[0] - leads[1]:+.3f} [{low:+.3f}, {high:+.3f}]"
        each = ", ".join(f"told {x} {y:+.3f}" for x, y in zip(told, leads, strict=True))
        return Claim(f"{more} less {less}: {each}: {shown}", low, high)

    return claim


def _shown(more: str, a: _Scored, less: str, b: _Scored, low: float, high: float) -> str:
    one, other = a.scores.mean(), b.scores.mean()
    change = f"{one - other:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"{more} {one:.3f}, {less} {other:.3f}: {change}"


def _difference(a: _Scored, b: _Scored) -> tuple[float, float]:
    """Return the interval of the difference of two means whose items are drawn apart."""
    one, other = (
        significance.draws({"": own.scores}, seed=n, clusters=own.clusters)[""]
        for n, own in enumerate((a, b))
    )
    return bootstrap.interval(one - other, level=significance.LEVEL)


def _apart(arm: str, more: str, less: str) -> Callable:
    """Compare one arm on the questions of two needs, which are drawn apart."""

    def claim(record: Mapping) -> Claim | None:
        a, b = (_scores(record, need, arm) for need in (more, less))
        if a is None or b is None:
            return None
        low, high = _difference(a, b)
        return Claim(f"{arm}: {_shown(more, a, less, b, low, high)}", low, high)

    return claim


def _hits(need: str, arm: str) -> Callable:
    """Compare an arm where the right passage was found with where it was not."""

    def claim(record: Mapping) -> Claim | None:
        own, found = record["arms"].get(arm, {}), _scores(record, need, arm)
        if found is None or not own.get("hit"):
            return None
        items = record["items"]
        hit = [own["hit"][i] for i, item in enumerate(items) if item["need"] == need]
        a, b = (found.only([each is kind for each in hit]) for kind in (True, False))
        if not a.scores.size or not b.scores.size:
            return None
        low, high = _difference(a, b)
        return Claim(f"{arm}: {_shown('found', a, 'not found', b, low, high)}", low, high)

    return claim


def _all(*claims: Callable) -> Callable:
    """Join claims that must all come out; None where one is not carried."""

    def found(record: Mapping) -> list[Claim] | None:
        own = [claim(record) for claim in claims]
        return None if None in own else own

    return found


STATEMENTS = (
    Statement(
        "new facts: training on statements < with paraphrases < the right passage in the prompt",
        "Ovadia, arXiv:2312.05934", "Mistral: .504, .588 with ten, .875 retrieved; base .481", True,
        _all(_between("facts", "lora_paraphrases", "lora_statements"),
             _between("facts", "rag_oracle", "lora_paraphrases")),
    ),
    Statement(
        "new facts: retrieval beats training on the texts", "Ovadia, arXiv:2312.05934",
        ".875 against .588", False, _all(_between("facts", "rag", "lora_paraphrases")),
    ),
    Statement(
        "the better the retrieval, the better the answers", "Soudani, arXiv:2403.01432",
        "in all their models", False, _all(_hits("facts", "rag")),
    ),
    Statement(
        "training helps all facts; retrieval is ahead of it most where facts are rare",
        "Soudani, arXiv:2403.01432", "by popularity", False,
        _all(_between("facts", "lora", "zero_shot", told=facts.OFTEN),
             _between("facts", "lora", "zero_shot", told=facts.SELDOM),
             _lead("facts", "rag", "lora", told=(facts.SELDOM, facts.OFTEN))),
    ),
    Statement(
        "skills: shots carry nothing, training does", "Bohnet, arXiv:2511.00130",
        "shots carry facts, not skills", True,
        _all(_between("skill", "few_shot", "zero_shot", side=0),
             _between("skill", "lora", "few_shot")),
    ),
    Statement(
        "shots carry facts", "Bohnet, arXiv:2511.00130", "", False,
        _all(_between("facts", "few_shot", "zero_shot")),
    ),
    Statement(
        "full fine-tuning forgets more than LoRA", "Bohnet, arXiv:2511.00130",
        "full the most, LoRA between", False, _all(_between("", "lora", "full", key="old")),
    ),
    Statement(
        "training with distractors beats training, then retrieval", "RAFT, arXiv:2403.10131",
        "on all but one of five sets", True,
        _all(_between("facts", "lora_rag", "lora_then_rag")),
    ),
    Statement(
        "training generalises worse to changed facts than to new ones",
        "FineTuneBench, arXiv:2411.05059", "19 % against 37 %", False,
        _all(_apart("lora", "facts", "changed")),
    ),
    Statement(
        "training and retrieval together beat either", "Balaguer, arXiv:2401.08406",
        "where form and facts matter", False,
        _all(_between("facts", "lora_rag", "lora"), _between("facts", "lora_rag", "rag")),
    ),
)  # fmt: skip
