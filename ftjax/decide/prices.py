"""What an arm costs, and what that is worth at the prices of whoever decides.

    cost(queries) = labels * price_label + compute(training + updates * update)
                    + queries * compute(query)
    compute(flops, seconds) = flops                         without prices: the unit is FLOPs
                              flops * price_flop            or
                              seconds / 3600 * price_hour

Prices come from the config alone: none is made up here.
"""

from typing import NamedTuple

from ftjax.core.typed import NonNegative
from ftjax.decide.break_even import Line

HOUR_S = 3600.0


class Cost(NamedTuple):
    """Of one arm: labels are rows that somebody had to answer; an update is one of its facts."""

    labels: int = 0
    train_flops: float = 0.0
    train_s: float = 0.0
    query_flops: float = 0.0
    query_s: float = 0.0
    update_flops: float = 0.0
    update_s: float = 0.0


class Prices(NamedTuple):
    """Inputs of the decision; a price of None is not known."""

    queries: NonNegative  # that the answer is for
    updates: NonNegative  # of the knowledge, in the time of these queries
    flop: NonNegative | None
    device_hour: NonNegative | None
    label: NonNegative | None

    @property
    def unit(self) -> str:
        """Name the unit of costs."""
        return "FLOPs" if self.flop is None and self.device_hour is None else "money"


def make(
    *, queries: NonNegative, updates: NonNegative = 0.0, flop: NonNegative | None = None,
    device_hour: NonNegative | None = None, label: NonNegative | None = None,
) -> Prices:  # fmt: skip
    """Check and collect the inputs.

    Raises:
      ValueError: two prices of compute, or one of labels beside FLOPs, which do not add up.
    """
    if flop is not None and device_hour is not None:
        raise ValueError(
            f"prices: got flop={flop} and device_hour={device_hour}; expected one of them, since "
            "both pay for the same computing"
        )
    if label is not None and flop is None and device_hour is None:
        raise ValueError(
            f"prices.label: got {label} without a price of computing; expected flop or "
            "device_hour besides: FLOPs and money do not add up"
        )
    return Prices(queries, updates, flop, device_hour, label)


def line(cost: Cost, prices: Prices) -> Line:
    """Return the fixed cost and that of a query, in the prices' unit."""
    training = _compute(cost.train_flops, cost.train_s, prices)
    updates = prices.updates * _compute(cost.update_flops, cost.update_s, prices)
    labels = (prices.label or 0.0) * cost.labels
    return Line(labels + training + updates, _compute(cost.query_flops, cost.query_s, prices))


def total(cost: Cost, prices: Prices) -> float:
    """Return the whole cost of the prices' queries."""
    return line(cost, prices).at(prices.queries)


def _compute(flops: float, seconds: float, prices: Prices) -> float:
    if prices.device_hour is not None:
        return prices.device_hour * seconds / HOUR_S
    return flops if prices.flop is None else prices.flop * flops
