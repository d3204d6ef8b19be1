"""Limits of a chat template, which is a program that somebody else wrote.

Turns of loops and sizes of texts are counted, not seconds, so that a template fails on every host
or on none. What it takes over the limits is a `LimitError`.
"""

import datetime
from collections.abc import Iterable

from jinja2 import nodes, sandbox

MAX_TURNS = 10**5  # of all loops of a template together, in one rendering
MAX_SIZE = 2**24  # characters or items of what a template makes
DATE = "2024-07-26"  # what Llama 3's templates print where nothing tells the date


class LimitError(ValueError):
    """A template does more than rendering a conversation takes."""


class Environment(sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which products that would fill the memory are errors."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def call_binop(self, context, operator, left, right):
        """Compute `left operator right` unless it is too large."""
        sized = [len(x) for x in (left, right) if hasattr(x, "__len__")]
        times = [x for x in (left, right) if isinstance(x, int)]
        numbers = len(times) == 2 and operator == "**" and abs(left) > 1 and abs(right) > 64
        if numbers or (operator == "*" and sized and times and sized[0] * times[0] > MAX_SIZE):
            raise LimitError(f"a product of over {MAX_SIZE}")
        if operator == "%" and isinstance(left, str):
            raise LimitError("a text formatted with %, whose size has no bound")
        return bounded(super().call_binop(context, operator, left, right))


def bounded(value):
    """Return a value; raises LimitError when it is too large."""
    if hasattr(value, "__len__") and len(value) > MAX_SIZE:
        raise LimitError(f"over {MAX_SIZE} characters or items")
    return value


def join(pieces: Iterable[str]) -> str:
    """Join pieces of text while they are made; raises LimitError when they are too many."""
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size > MAX_SIZE:
            raise LimitError(f"over {MAX_SIZE} characters")
    return "".join(found)


class Turns:
    """Counts the turns of all loops in one rendering."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        """Count one; raises LimitError past the last."""
        self.count += 1
        if self.count > MAX_TURNS:
            raise LimitError(f"over {MAX_TURNS} turns of loops")
        return ""


def limit(template: nodes.Template) -> nodes.Template:
    """Make every loop of a parsed template call `_turn`, and bound what it assigns."""
    for loop in template.find_all(nodes.For):
        call = nodes.Call(nodes.Name("_turn", "load"), [], [], None, None)
        loop.body.insert(0, nodes.ExprStmt(call).set_lineno(loop.lineno))
    for assign in template.find_all(nodes.Assign):
        assign.node = nodes.Filter(assign.node, "_bounded", [], [], None, None).set_lineno(
            assign.lineno
        )
    return template


def clock(date: str):
    """Return `strftime_now` of templates: always noon of one day.

    Raises:
      ValueError: the date is no YYYY-MM-DD.
    """
    try:
        day = datetime.datetime.strptime(date, "%Y-%m-%d").replace(hour=12)
    except (TypeError, ValueError):
        raise ValueError(
            f"data.date: got {date!r}; expected YYYY-MM-DD, such as {DATE!r}; it is what chat "
            "templates print as today"
        ) from None
    return lambda pattern: bounded(day.strftime(pattern[:200]))
