r"""Rewards: what a sampled answer is worth, by functions of the text and of the row it answers.

    short = dict(name="length", max_length=20, weight=0.1)
    rewards = make({"exact": dict(name="exact"), "short": short})
    rewards(["4"], [{"prompt": "2 + 2 =", "answer": "4"}])   ->  Scores(values [1, 2], skipped 0)

`name` is a function of this module or a dotted path to a function of one's own. Called with the
other keywords it returns `score(text, row) -> float`; None says nothing, and counts as nothing. Of
several processes the first scores, and all get what it found.
Nothing here runs what a model wrote: code is parsed, no more.
"""

import ast
import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import regex as regex_lib  # unlike `re` it can be given a time limit

from ftjax.core import config as conf
from ftjax.core import processes

# What a function that meets a text it did not expect raises; faults of the machine pass through.
RAISED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
MAX_SECONDS = 1.0  # of a pattern over an answer; sound ones take microseconds
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class BatchReward(NamedTuple):
    """A reward that scores many answers at once: `score(texts, rows) -> [B]`, as a model does.

    collective: every process must take part, for the model lies on all devices; any other reward is
      asked in process 0 alone, since a server or a draw would answer each process differently.
    """

    score: Callable
    collective: bool = False


class Scores(NamedTuple):
    """Rewards of B answers by F functions, NaN where one says nothing; how many were skipped."""

    values_BF: np.ndarray
    skipped: int


class Rewards(NamedTuple):
    """Reward functions by label, and their weights in the sum."""

    functions: Mapping[str, Callable | BatchReward]
    weights: tuple[float, ...]
    skip: bool

    def __call__(self, texts: Sequence[str], rows: Sequence[Mapping]) -> Scores:
        """Score every answer by every function.

        Raises:
          ValueError: a function raised or returned NaN, and faults are not to be skipped; it names
            the function, the prompt and the answer.
        """
        columns, skipped = [], 0
        for label, function in self.functions.items():
            ask = functools.partial(_scores, label, function, texts, rows)
            found = ask() if _is_collective(function) else processes.on_first(ask)
            faults = [fault for _, fault in found if fault]
            if faults and not self.skip:
                raise ValueError(faults[0])
            skipped += len(faults)
            columns.append(np.array([value for value, _ in found], np.float32))
        none = np.zeros((len(texts), 0), np.float32)
        return Scores(np.stack(columns, axis=-1) if columns else none, skipped)


def make(
    specs: Mapping[str, Mapping], *, faults: str = "raise",
    known: Mapping[str, Callable] | None = None, **offered,
) -> Rewards:  # fmt: skip
    """Make rewards from sections {label: dict(name=..., weight=1.0, ...)}.

    Args:
      faults: of a function that raises or returns NaN: "raise", or "skip" and count.
      known: more functions by name, such as trained models.
      offered: keywords that a function may ask for.

    Raises:
      ValueError: anything wrong with a section, by its label.
    """
    if faults not in ("raise", "skip"):
        raise ValueError(f"rollout.faults: got {faults!r}; expected raise or skip")
    functions, weights = {}, []
    for label, spec in specs.items():
        keywords = {k: v for k, v in spec.items() if k not in ("name", "weight")}
        where = f"rewards.{label}"
        factory = find(spec.get("name"), FUNCTIONS | dict(known or {}), where=where)
        functions[label] = conf.call(factory, keywords, where=where, extra=offered)
        weights.append(float(spec.get("weight", 1.0)))
    return Rewards(functions, tuple(weights), faults == "skip")


def find(name: str, known: Mapping[str, Callable], *, where: str = "reward") -> Callable:
    """Return the known function of this name, or the one at this dotted path.

    Raises:
      ValueError: there is none.
    """
    if name in known:
        return known[name]
    path, _, attribute = str(name).rpartition(".")
    try:
        return vars(importlib.import_module(path))[attribute]
    except (ImportError, KeyError, ValueError) as error:
        raise ValueError(
            f"{where}.name: got {name!r}; expected one of {conf.listed(known)}, or the dotted "
            f"path of a function; {conf.nearest(str(name), known)}"
        ) from error


def _is_collective(function: Callable | BatchReward) -> bool:
    return isinstance(function, BatchReward) and function.collective


def _scores(label: str, function, texts: Sequence[str], rows: Sequence[Mapping]) -> list:
    """Return (reward or NaN, what went wrong) of every answer."""
    if isinstance(function, BatchReward):
        values = function.score(texts, rows)
        triples = zip(values, texts, rows, strict=True)
        return [_score(label, lambda text, row, v=v: v, text, row) for v, text, row in triples]
    return [_score(label, function, *pair) for pair in zip(texts, rows, strict=True)]


def _score(label: str, function: Callable, text: str, row: Mapping) -> tuple[float, str]:
    """Return the reward, or NaN and what went wrong."""
    told = f"rewards.{label}: {{}} for the answer {text[:80]!r} to {str(row.get('prompt'))[:80]!r}"
    try:
        value = function(text, row)
    except RAISED as error:
        return math.nan, told.format(f"raised {error!r}") + "; mend it, or set rollout.faults=skip"
    if value is None:
        return math.nan, ""
    if not math.isfinite(value):
        # An infinite reward would make NaN of a whole group's advantages.
        return math.nan, told.format(f"returned {value}") + "; expected a finite number, or None"
    return float(value), ""


# -- functions -------------------------------------------------------------------------------------


def exact(*, field: str = "answer", until: str = "\n") -> Callable:
    """Return 1 for the row's answer, or for one of its list of them, spaces at the ends aside.

    The text ends before `until`.
    """

    def score(text, row):
        right = row[field] if isinstance(row[field], list | tuple) else [row[field]]
        return float(text.split(until)[0].strip() in {str(each).strip() for each in right})

    return score


def overlap(*, field: str = "answer", until: str = "\n") -> Callable:
    """Return the share of words that stand where the row's answer has them."""

    def score(text, row):
        found, wanted = text.split(until)[0].split(), str(row[field]).split()
        hits = sum(a == b for a, b in zip(found, wanted, strict=False))
        return hits / max(len(found), len(wanted), 1)

    return score


def number(*, field: str = "answer", tolerance: float = 1e-6) -> Callable:
    """Return 1 when the last number of the text is that of the row's answer."""

    def score(text, row):
        found, wanted = last_number(text), last_number(str(row[field]))
        if wanted is None:
            raise ValueError(f"{field}: got {row[field]!r}; expected a number in it")
        return float(found is not None and abs(found - wanted) <= tolerance)

    return score


def last_number(text: str) -> float | None:
    """Read the last number of a text, thousands commas allowed."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def pattern(*, regex: str) -> Callable:
    """Return 1 for a text of this form as a whole; a dot matches newlines too."""
    compiled = regex_lib.compile(regex, regex_lib.DOTALL)

    def score(text, row):
        try:
            return float(compiled.fullmatch(text, timeout=MAX_SECONDS) is not None)
        except TimeoutError:
            raise ValueError(
                f"regex: got {regex!r}, which takes over {MAX_SECONDS} s on {len(text)} "
                "characters; expected one without repeats inside of repeats"
            ) from None

    return score


def length(*, max_length: int, min_length: int = 0, unit: str = "words") -> Callable:
    """Return 1 between these numbers of words (or characters), falling to 0 at twice as many."""
    count = {"words": lambda text: len(text.split()), "characters": len}
    if unit not in count or max_length < 1:
        raise ValueError(f"length: got {max_length} {unit}; expected 1 or more words or characters")

    def score(text, row):
        n = count[unit](text)
        return n / min_length if n < min_length else min(1.0, max(0.0, 2 - n / max_length))

    return score


def python(*, defines: str = "", field: str = "") -> Callable:
    """Return 1 for code that parses and defines `defines`, or row[field]; nothing is run.

    Code that parses and does not define it gets 1/2. A fenced block counts as its inside.
    """

    def score(text, row):
        tree = _parse(text)
        if tree is None:
            return 0.0
        wanted = str(row[field]) if field else defines
        kinds = (ast.FunctionDef, ast.ClassDef)
        names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
        return 1.0 if not wanted or wanted in names else 0.5

    return score


def _parse(text: str) -> ast.Module | None:
    fenced = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    try:
        return ast.parse(fenced[1] if fenced else text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # The last two: a model's text may be nested more deeply than the parser can go.
        return None


FUNCTIONS = {f.__name__: f for f in (exact, overlap, number, pattern, length, python)}
