import sys
import types

import pytest

from ftjax.report.table import Metric
from ftjax.run import stated_metrics


def test_what_a_module_states_is_collected_by_label(monkeypatch):
    own = types.ModuleType("mine.rhymes")
    own.DIRECTIONS, own.UNITS = {"rhymes": 1, "slips": -1}, {"rhymes": "share"}
    monkeypatch.setitem(sys.modules, "mine.rhymes", own)
    evals = {"poems": {"name": "mine.rhymes"}, "held": {"name": "nll"}}
    assert stated_metrics.stated(evals) == {
        "poems": {"rhymes": Metric(1, "share"), "slips": Metric(-1)}
    }
    own.DIRECTIONS["rhymes"] = "up"
    with pytest.raises(ValueError, match=r"evals\.poems\.name: mine.rhymes .*'up'; expected 1"):
        stated_metrics.stated(evals)
