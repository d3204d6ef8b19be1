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
        assert row["raw"] == pytest.approx(row["ms"] / row["report_ms"], rel=0.02)
        assert row["ratio"] * row["machine"] == pytest.approx(row["raw"], rel=0.02)
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
    with pytest.raises(SystemExit, match=r"not within 10% of the report: lora; was "):
        bench_decide.main()
    assert done == ["auto", "memory", "open"]
    monkeypatch.setattr(sys, "argv", ["bench_decide", *given, "--tolerance", "0.2"])
    bench_decide.main()


def of(batch_s, reference_s, search_s=None):
    return {"latency": dict(batch_s=batch_s, reference_s=reference_s), "search_s": search_s}


def test_a_slower_machine_is_told_from_a_slower_arm(monkeypatch):
    there = {"same": of(0.02, 0.01), "slower": of(0.02, 0.01, 0.02), "old": {"error": "no"}}
    here = {"same": of(0.06, 0.03), "slower": of(0.06, 0.03, 0.12)}
    monkeypatch.setattr(bench_decide.timing, "measured", lambda own, timed: here)
    same, slower = bench_decide.compared(None, {"arms": there})
    assert [same[key] for key in ("raw", "machine", "ratio")] == [3.0, 3.0, 1.0]
    assert [slower[key] for key in ("raw", "machine", "ratio")] == [4.5, 3.0, 1.5]


def test_times_without_a_reference_are_refused(monkeypatch):
    record = {"arms": {"rag": {"latency": dict(batch_s=0.02), "search_s": None}}}
    with pytest.raises(ValueError, match="got times without reference_s"):
        bench_decide.compared(None, record)
