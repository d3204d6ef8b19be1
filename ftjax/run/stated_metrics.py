"""What evaluators of one's own say of their metrics: which way is better, and in which unit.

DIRECTIONS, UNITS = {"rhymes": 1}, {"rhymes": "share"}         in the evaluator's module
stated(settings.evals)                                         {"label": {"rhymes": Metric}}
"""

import functools
from collections.abc import Mapping

from ftjax.core import config as conf
from ftjax.report import table as tables


def stated(evals: Mapping) -> dict[str, dict[str, tables.Metric]]:
    """Collect, by label, the metrics whose DIRECTIONS the evaluator's module states, with UNITS.

    Raises:
      ValueError: a direction is neither 1 nor -1.
    """
    found: dict[str, dict[str, tables.Metric]] = {}
    for label, spec in evals.items():
        where = f"evals.{label}.name"
        read = functools.partial(conf.attribute, spec["name"], "evals", where=where)
        directions, units = (read(name) or {} for name in ("DIRECTIONS", "UNITS"))
        for metric, direction in directions.items():
            # A 0 or a word would colour a change for better as one for worse.
            if direction not in (1, -1):
                raise ValueError(
                    f"{where}: {spec['name']} states DIRECTIONS[{metric!r}] = {direction!r}; "
                    "expected 1 where more is better, or -1 where less is"
                )
            own = tables.Metric(direction, units.get(metric, ""))
            found.setdefault(label, {})[metric] = own
    return found
