"""Tables of many runs: where the text goes, and what stands in it."""

import pytest

from ftjax.core import config as conf
from scripts import preference_table, runs


def test_a_table_replaces_the_one_of_the_same_script():
    once = runs.insert("# Adapters\n\nText.\n", "old table", name="a.py")
    both = runs.insert(once, "another", name="b.py")
    again = runs.insert(both + "\nMore.\n", "new table", name="a.py")
    assert again == both.replace("old table", "new table") + "\nMore.\n"
    assert again.startswith("# Adapters\n\nText.\n")


def test_the_interval_is_of_student():
    # t = 4.303 for two degrees of freedom; the deviation of 1, 2, 3 is 1: 4.303 / sqrt(3) = 2.484.
    assert preference_table.interval([1.0, 2.0, 3.0]) == "2.000 ± 2.484"
    assert preference_table.interval([0.5]) == "0.500"


def test_a_row_has_a_cell_for_every_head():
    before = {"eval/pairs/accuracy": 0.5, "eval/pairs/reward_margin": 0.0}
    after = {"eval/pairs/accuracy": 0.7, "eval/pairs/reward_margin": 1.5}
    old = {"eval/wiki/nll": 3.0, "eval/tinystories/nll": 5.0}
    found = (before | old, after | {name: value + 0.25 for name, value in old.items()})
    cells = preference_table.row("DPO", [found])
    assert cells == ["DPO", "0.500", "0.700", "0.000", "1.500", "0.250"]
    assert len(cells) == len(preference_table.HEADS)


@pytest.mark.parametrize("config", preference_table.CONFIGS.values())
def test_the_configs_take_the_arguments(config):
    c = conf.load(f"configs/{config}.py:data=D,base=B,steps=3,seed=2")
    assert (c.model.base, c.steps, c.seed.data) == ("B", 3, 2)
