import functools
import sys

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


def test_it_starts_as_the_command_does_and_fails_where_times_are_apart(tmp_path, monkeypatch):
    done, found = [], [{"arm": "rag", "ratio": 1.05}, {"arm": "lora", "ratio": 0.8}]
    monkeypatch.setattr(bench_decide.compile_cache, "use", lambda folder: done.append(folder))
    monkeypatch.setattr(bench_decide.device, "reuse_memory", lambda: done.append("memory"))
    monkeypatch.setattr(benchmark, "open_benchmark", lambda *_: done.append("open"))
    monkeypatch.setattr(bench_decide, "compared", lambda *_: found)
    monkeypatch.setattr(decide, "read", lambda config: config)
    (tmp_path / "decide.json").write_text("{}")
    given = ["--config", "c.py", "--workdir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench_decide", *given])
    with pytest.raises(SystemExit, match=r"not within 10% of the report: lora$"):
        bench_decide.main()
    assert done == ["auto", "memory", "open"]
    monkeypatch.setattr(sys, "argv", ["bench_decide", *given, "--tolerance", "0.2"])
    bench_decide.main()
