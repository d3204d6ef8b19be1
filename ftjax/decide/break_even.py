"""From how many queries on one arm is cheaper than another.

    Q* = (fixed_a - fixed_b) / (per_query_b - per_query_a)

Costs are in one unit, FLOPs or money; fixed ones hold training, labels and updates. A model of 8e9
parameters that retrieval makes read 2,000 tokens more pays 3.2e13 FLOPs a query; LoRA on 1e7 tokens
is 3.2e17 FLOPs: from 10,000 queries on LoRA is cheaper.
"""

from typing import Literal, NamedTuple


class Line(NamedTuple):
    """A cost that grows with the number of queries."""

    fixed: float
    per_query: float

    def at(self, queries: float) -> float:
        """Return the whole cost of so many queries."""
        return self.fixed + queries * self.per_query


class BreakEven(NamedTuple):
    """When a is cheaper than b: always, never, from or until `queries`; equal: no difference."""

    kind: Literal["always", "never", "equal", "from", "until"]
    queries: float | None

    def __str__(self) -> str:
        """Write it for a table."""
        return self.kind if self.queries is None else f"{self.kind} {self.queries:,.0f}"


def break_even(a: Line, b: Line) -> BreakEven:
    """Find where a is cheaper than b, queries being 0 or more."""
    dearer, saves = a.fixed - b.fixed, b.per_query - a.per_query
    if saves == 0:
        kind = "equal" if dearer == 0 else "never" if dearer > 0 else "always"
        return BreakEven(kind, None)
    if saves > 0:
        return BreakEven("from", dearer / saves) if dearer > 0 else BreakEven("always", None)
    return BreakEven("until", dearer / saves) if dearer < 0 else BreakEven("never", None)
