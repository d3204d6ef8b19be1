import argparse
import sys

import pytest

from scripts import decide_growth
from tests.decide import test_growth


@pytest.mark.parametrize("text", ["people", "people=", "people=8", "people=8,x", "=8,16"])
def test_what_grows_has_a_name_and_values(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected name=8,16,32"):
        decide_growth.over(text)


def test_every_value_is_a_decision_of_its_own(tmp_path, monkeypatch):
    asked = []

    def decide(decision, workdir):
        asked.append((decision, workdir.name))
        return test_growth.POINTS[
            {"people-8": 8.0, "people-32": 32.0, "people-128": 128.0}[workdir.name]
        ]

    monkeypatch.setattr(decide_growth.decide, "read", lambda config: config)
    monkeypatch.setattr(decide_growth.decide, "decide", decide)
    out = tmp_path / "docs.md"
    given = ["--config", "c.py:trials=1", "--over", "people=32,8,128", "--workdir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["decide_growth", *given, "--out", str(out)])
    decide_growth.main()
    assert asked == [
        ("c.py:trials=1,people=8", "people-8"), ("c.py:trials=1,people=32", "people-32"),
        ("c.py:trials=1,people=128", "people-128"),
    ]  # fmt: skip
    assert "equal at about 50.8" in (tmp_path / "growth.html").read_text()
    assert "| 128 | 0.600 [0.500, 0.700] |" in out.read_text()
    assert decide_growth.config_of("c.py", "people", 8.0) == "c.py:people=8"
