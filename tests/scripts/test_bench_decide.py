import functools

import jax
import pytest

from configs import decide_tiny
from experiments import decide
from ftjax.core import mesh as meshes
from ftjax.decide import benchmark, config
from scripts import bench_decide


def test_arms_are_timed_beside_what_their_report_says(lab, tmp_path, monkeypatch, capsys):
    make = functools.partial(meshes.make, devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "make", make)  # programs for eight devices compile far longer
    c = decide_tiny.get_config("smoke,people=2")
    c.base, c.latency_rows, c.changed, c.old = str(lab.root / "base"), 1, {}, {}
    c.arms = {name: dict(name=name) for name in ("zero_shot", "rag")}
    decision = config.read(c)
    record = decide.decide(decision, tmp_path)
    found = bench_decide.compared(benchmark.open_benchmark(decision, tmp_path), record)
    assert [row["arm"] for row in found] == ["zero_shot", "rag"]
    for row in found:
        own = record["arms"][row["arm"]]
        there = own["latency"]["batch_s"] + (own["search_s"] or 0)
        assert row["report_ms"] == pytest.approx(1e3 * there, abs=1e-3)
        assert row["ms"] > 0
        assert row["ratio"] == pytest.approx(row["ms"] / row["report_ms"], rel=0.02)
    assert capsys.readouterr().out.count('"ratio"') == 2
