"""The benchmark of studies: which cells it takes, and that it looks for a difference."""

import pathlib

import numpy as np
import pytest

from experiments import members, sequential
from ftjax.core import compile_cache, device
from scripts import bench_forgetting as bench

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_it_takes_one_method_at_one_rate(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    chosen = bench.read("configs/forgetting_tiny.py", 2)
    stages = bench.every_stage(chosen, tmp_path)
    assert [own.workdir.relative_to(tmp_path / "cells").as_posix() for own in stages] == [
        f"full_0.0003_s{seed}_o0/{number}_{task}"
        for seed in (0, 1) for number, task in enumerate(("language", "skill", "facts"), 1)
    ]  # fmt: skip


def test_a_method_is_chosen_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    chosen = bench.read("configs/forgetting_smoke.py", 2, method="lora")
    (first, second) = bench.every_stage(chosen, tmp_path)
    assert [own.workdir.parent.name for own in (first, second)] == [
        "lora_0.003_s0_o0",
        "lora_0.003_s1_o0",
    ]
    with pytest.raises(SystemExit, match="got lorra; expected one of full, lora, "):
        bench.read("configs/forgetting_smoke.py", 2, method="lorra")


@pytest.mark.parametrize(
    ("config", "method", "want"),
    [("smoke", "lora", True), ("smoke", "full", False), ("tiny", "lora", False)],
)
def test_members_are_adapters_of_one_stage(monkeypatch, tmp_path, config, method, want):
    monkeypatch.chdir(ROOT)
    chosen = bench.read(f"configs/forgetting_{config}.py", 2, method=method)
    assert bench.is_members(chosen, bench.every_stage(chosen, tmp_path)) is want


def test_members_are_the_cells_by_their_directories(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    seen = []
    monkeypatch.setattr(members, "run", lambda found, listed, root: seen.append((found, listed)))
    monkeypatch.setattr(bench, "start", lambda: None)
    bench.run_members(bench.read("configs/forgetting_smoke.py", 2, method="lora"), tmp_path)
    ((found, listed),) = seen
    assert {name: own.seed.data for name, own in found.items()} == {
        "cells/lora_0.003_s0_o0/1_language": 0,
        "cells/lora_0.003_s1_o0/1_language": 1,
    }
    assert len(listed.rows) == 2


def test_scores_of_members_may_differ_by_rounding(tmp_path):
    both = tmp_path / "one", tmp_path / "two"
    name = pathlib.Path("cells") / "a"

    def scores(where, nll, right=1):
        path = where / name / "evals" / "4.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, nll=np.array([120.0, nll]), right=np.array([right]))

    scores(both[0], 0.5)
    with pytest.raises(SystemExit, match=r"4\.npz: no such file"):
        bench.difference(*both, [name])
    scores(both[1], 0.5 + 4e-6)
    assert bench.difference(*both, [name]) == pytest.approx(4e-6)
    scores(both[1], 0.5 + 4e-5)
    with pytest.raises(SystemExit, match="4e-05; expected at most 1e-05"):
        bench.difference(*both, [name])
    scores(both[1], np.nan)
    with pytest.raises(SystemExit, match="off by nan"):
        bench.difference(*both, [name])


def test_another_score_is_found(tmp_path):
    name = pathlib.Path("cells") / "a" / "1_b"
    for where in ("one", "two"):
        for file in ("evals/4.npz", "export/model.safetensors", "report.html"):
            path = tmp_path / where / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"same")
    both = tmp_path / "one", tmp_path / "two"
    bench.compare(*both, [name])
    (tmp_path / "two" / name / "export" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"model\.safetensors and .* differ"):
        bench.compare(*both, [name])
    (tmp_path / "two" / name / "report.html").unlink()
    with pytest.raises(SystemExit, match=r"two/cells/a/1_b: no report\.html"):
        bench.compare(*both, [name])


def test_its_processes_run_the_stages_that_they_are_told(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    seen = []
    monkeypatch.setattr(sequential, "end", lambda stage, shared: seen.append((stage, shared)))
    monkeypatch.setattr(compile_cache, "use", lambda folder: seen.append(folder))
    monkeypatch.setattr(device, "reuse_memory", lambda: None)
    chosen = bench.read("configs/forgetting_smoke.py", 2)
    bench.run(chosen, tmp_path, only=1)  # starts without the flags of a command
    assert seen.pop(0) == "auto"
    assert [(own.workdir.parent.name, shared) for own, shared in seen] == [
        ("full_0.0003_s1_o0", None)
    ]
    bench.run(chosen, tmp_path)
    first, second = (shared for _, shared in seen[2:])
    assert first is second is not None
