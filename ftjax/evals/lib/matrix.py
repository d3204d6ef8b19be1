"""What a sequence of tasks did to every task: measures of the matrix of stages by tasks.

    R [T+1, T]      R[s, j] the score of task j after stage s; row 0 is the base, stage j trains j

    avg_accuracy        1/T      sum_j     R[T,j]                                       up
    learning_accuracy   1/T      sum_j     R[j,j]                                       up
    bwt                 1/(T-1)  sum_{j<T} R[T,j] - R[j,j]                              up
    fwt                 1/(T-1)  sum_{j>1} R[j-1,j] - chance[j]                         up
    zero_shot_fwt       1/(T-1)  sum_{j>1} R[j-1,j] - R[0,j]                            up
    forgetting          1/(T-1)  sum_{j<T} reference_j - R[T,j]                         down
    intransigence       1/T      sum_j     joint[j] - R[j,j]                            down

"up" says that more is better. Scores are such that more is better too: of a loss, hand in its
negative. NaN stands for what was not evaluated. Averages are over tasks, not over examples.
ACC, BWT and FWT are those of GEM (arXiv:1706.08840), forgetting and intransigence those of
arXiv:1801.10112.

Each measure is the mean of one term per task, `TERMS`, from which `estimate` has its intervals.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ftjax.core import config as conf
from ftjax.evals.lib import bootstrap

HIGHER, LOWER = 1, -1
DIRECTIONS = {
    "avg_accuracy": HIGHER, "learning_accuracy": HIGHER, "bwt": HIGHER, "fwt": HIGHER,
    "zero_shot_fwt": HIGHER, "forgetting": LOWER, "intransigence": LOWER,
}  # fmt: skip
DENOMINATORS = ("past", "all")
REFERENCES = ("past", "any", "learning", "base")
LEVELS = ("examples", "tasks", "runs")


def from_examples(table: Sequence[Sequence]) -> np.ndarray:
    """Average the scores of every example, table[s][j] an array [n_j] or None, to R [T+1, T]."""
    mean = lambda scores: np.nan if scores is None else float(np.mean(scores, dtype=np.float64))
    return _check([[mean(scores) for scores in row] for row in table])


def avg_accuracy(scores: np.ndarray) -> float:
    """Average the final scores, (1/T) sum_j R[T,j]; up. A last-task specialist scores too."""
    return float(final_terms(scores).mean())


def learning_accuracy(scores: np.ndarray) -> float:
    """Average the scores right after learning, (1/T) sum_j R[j,j]; up. Plasticity alone."""
    return float(learned_terms(scores).mean())


def bwt(scores: np.ndarray, *, denominator: str = "past") -> float:
    """Compute backward transfer, sum_{j<T} (R[T,j] - R[j,j]) / denominator; up, < 0 = forgetting.

    The denominator is T-1, the tasks that could be forgotten ("past", GEM's), or T ("all", TRACE's,
    arXiv:2310.06762).
    """
    _among("denominator", denominator, DENOMINATORS)
    terms = backward_terms(scores)
    return float(terms.sum() / (len(terms) + (denominator == "all")))


def fwt(scores: np.ndarray, *, chance: Sequence[float]) -> float:
    """Compute forward transfer, the mean over j > 1 of R[j-1,j] - chance[j]; up.

    chance: the scores [T] of a model with random weights, evaluated and not assumed.
    """
    return float(forward_terms(scores, chance=chance).mean())


def zero_shot_fwt(scores: np.ndarray) -> float:
    """Compute the mean over j > 1 of R[j-1,j] - R[0,j]; up: forward transfer over the base."""
    return float(zero_shot_terms(scores).mean())


def forgetting(scores: np.ndarray, *, reference: str = "past") -> float:
    """Compute how far final scores fell, the mean over j < T of reference_j - R[T,j]; down.

    reference: what a score fell from:
      past      the best of stages 1..T-1                          arXiv:1801.10112
      any       the same with the base, row 0, among them
      learning  R[j,j]: then forgetting = -bwt
      base      R[0,j]

    Rows of `past` and `any` from before a task was learned may be NaN; later ones may not.
    """
    return float(forgetting_terms(scores, reference=reference).mean())


def intransigence(scores: np.ndarray, *, joint: Sequence[float]) -> float:
    """Compute what could not be learned, the mean of joint[j] - R[j,j]; down.

    joint: the scores [T] of one run on all tasks together.
    """
    return float(intransigence_terms(scores, joint=joint).mean())


# -- one term per task -----------------------------------------------------------------------------


def final_terms(scores) -> np.ndarray:
    """R[T,j] of all tasks [T]."""
    return _evaluated(_check(scores)[-1], "after the last stage")


def learned_terms(scores) -> np.ndarray:
    """R[j,j] of all tasks [T]."""
    return _evaluated(np.diagonal(_check(scores)[1:]), "right after its own stage")


def backward_terms(scores) -> np.ndarray:
    """R[T,j] - R[j,j] of the tasks before the last [T-1]."""
    return _transfers(final_terms(scores) - learned_terms(scores))[:-1]


def forward_terms(scores, *, chance) -> np.ndarray:
    """R[j-1,j] - chance[j] of the tasks after the first [T-1]."""
    before = np.diagonal(_check(scores)[:-1])
    return _transfers(
        _evaluated(before[1:], "before its stage", first=2) - _vector(chance, before)[1:], 1
    )


def zero_shot_terms(scores) -> np.ndarray:
    """R[j-1,j] - R[0,j] of the tasks after the first [T-1]."""
    return forward_terms(scores, chance=_evaluated(_check(scores)[0], "of the base"))


def forgetting_terms(scores, *, reference: str = "past") -> np.ndarray:
    """reference_j - R[T,j] of the tasks before the last [T-1]; see `forgetting`."""
    _among("reference", reference, REFERENCES)
    if reference == "learning":
        return -backward_terms(scores)
    table = _transfers(_check(scores), 2)
    if reference == "base":
        return (_evaluated(table[0], "of the base") - final_terms(table))[:-1]
    if reference == "any":
        _evaluated(table[0], "of the base")
    for stage in range(1, len(table)):
        _evaluated(table[stage, :stage], f"after stage {stage}, when it was known")
    return np.nanmax(table[reference == "past" : -1, :-1], 0) - final_terms(table)[:-1]


def intransigence_terms(scores, *, joint) -> np.ndarray:
    """joint[j] - R[j,j] of all tasks [T]."""
    learned = learned_terms(scores)
    return _vector(joint, learned) - learned


TERMS = {
    "avg_accuracy": final_terms, "learning_accuracy": learned_terms, "bwt": backward_terms,
    "fwt": forward_terms, "zero_shot_fwt": zero_shot_terms, "forgetting": forgetting_terms,
    "intransigence": intransigence_terms,
}  # fmt: skip


# -- intervals -------------------------------------------------------------------------------------


def estimate(
    terms: Callable, runs: Sequence[Sequence[Sequence]], *,
    orders: Sequence[Sequence[int]] | None = None,
    levels: Sequence[str] = ("examples", "runs"), seed: int = 0, resamples: int = 1000,
    level: float = 0.95,
) -> bootstrap.Estimate:  # fmt: skip
    """Estimate the mean of a measure's terms over tasks and runs, with a bootstrap interval.

    Args:
      terms: R [T+1, T] -> terms, one of `TERMS`, its other arguments bound.
      runs: per run (a seed of training) its table, see `from_examples`. A task's examples are the
        same ones in all stages and runs, so that one draw of them serves all: pairs stay together.
      orders: per run the columns of its table in the order in which the tasks were trained; that of
        the columns if not given.
      levels: what is drawn again, of "examples", "tasks" (where they stand for more of their
        kind) and "runs". One run or one task alone has no spread, and adds none.
      seed, resamples, level: of the percentile interval.

    Returns:
      (value, low, high, n), n the number of examples of all tasks.

    Raises:
      ValueError: an unknown level, no run, or examples that do not pair up.
    """
    for name in levels:
        _among("levels", name, LEVELS)
    counts = _counts(runs)
    orders = [range(len(counts))] * len(runs) if orders is None else orders
    of = lambda means: [
        np.asarray(terms(table[:, list(order)])) for table, order in zip(means, orders, strict=True)
    ]
    stacks = [_stack(runs, j) for j in range(len(counts))]
    generator = np.random.default_rng(seed)
    draws = [_draw(stacks, of, levels, generator) for _ in range(resamples)]
    value = float(np.mean([each.mean() for each in of(_means(stacks, None))]))
    return bootstrap.Estimate(value, *bootstrap.interval(draws, level=level), sum(counts))


def _draw(stacks, of: Callable, levels: Sequence[str], generator: np.random.Generator) -> float:
    """Compute the mean of the terms of one resample."""
    runs, index = len(stacks[0]), None
    chosen = generator.integers(runs, size=runs) if "runs" in levels else range(runs)
    if "examples" in levels:
        index = [generator.integers(n, size=n) for n in (x.shape[-1] for x in stacks)]
    found = of(_means(stacks, index))
    terms = np.mean([found[i] for i in chosen], 0)
    if "tasks" in levels:
        terms = terms[generator.integers(len(terms), size=len(terms))]
    return float(terms.mean())


def _stack(runs, j: int) -> np.ndarray:
    """Lay the scores of a task's examples side by side: [runs, stages, n], NaN where none are."""
    size = next(len(row[j]) for run in runs for row in run if row[j] is not None)
    gap = np.full(size, np.nan)
    return np.array(
        [[gap if row[j] is None else np.asarray(row[j], np.float64) for row in run] for run in runs]
    )


def _means(stacks: Sequence[np.ndarray], index: Sequence[np.ndarray] | None) -> np.ndarray:
    """Average over examples, or over those at the indices of each task: [runs, stages, T]."""
    some = stacks if index is None else [x[..., at] for x, at in zip(stacks, index, strict=True)]
    return np.stack([each.mean(-1) for each in some], -1)


def _counts(runs) -> list[int]:
    """Count the examples of every task."""
    tasks = range(len(runs[0][0])) if runs else ()
    columns = [[row[j] for run in runs for row in run] for j in tasks]
    sizes = [{len(scores) for scores in column if scores is not None} for column in columns]
    if not sizes or any(len(each) != 1 or 0 in each for each in sizes):
        raise ValueError(
            f"runs: got {len(runs)} with {[sorted(each) for each in sizes]} examples by task; "
            "expected the same ones of a task in all stages and runs; evaluate these again"
        )
    return [each.pop() for each in sizes]


def _check(scores) -> np.ndarray:
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] + 1 or table.shape[1] < 1:
        raise ValueError(
            f"scores: got an array of shape {table.shape}; expected [T+1, T], the base in row 0 "
            "and one row per stage, tasks in the order in which they were trained"
        )
    return table


def _evaluated(values: np.ndarray, when: str, *, first: int = 1) -> np.ndarray:
    if gaps := [str(first + i) for i in np.flatnonzero(np.isnan(values))]:
        raise ValueError(
            f"scores: got none of task {', '.join(gaps)} {when}; expected one, which this measure "
            "is about; evaluate it"
        )
    return values


def _transfers(values: np.ndarray, least: int = 2) -> np.ndarray:
    if values.shape[-1] < least:
        raise ValueError("scores: got one task; expected at least two; a transfer is between tasks")
    return values


def _vector(values, like: np.ndarray) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if found.shape != like.shape:
        raise ValueError(f"scores: got {found.shape} beside {like.shape} tasks; expected one each")
    return found


def _among(key: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        raise ValueError(
            f"{key}: got {value!r}; {conf.nearest(value, legal)}expected one of {', '.join(legal)}"
        )
