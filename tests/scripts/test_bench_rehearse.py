"""The table of rehearsals: its cells, its commands and what it says of those that were not run."""

import json

import pytest

from scripts import bench_rehearse


def found(**changes):
    own = dict(
        needed=2**31, capacity=2**34, temporaries=2**30, step_s=0.5, mfu=0.4, bound="compute",
        topology="v5e-16", fits=True, sent=2**30, compile_s=9.0, wall_s=10.0,
    )  # fmt: skip
    return own | changes


def test_all_cells_are_rows(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(bench_rehearse, "rehearse", lambda cell: calls.append(cell) or found())
    results, out = tmp_path / "found.json", tmp_path / "scale.md"
    given = [f"--results={results}", f"--out={out}", "--cells=8b-lora-v5e"]
    bench_rehearse.main(given)
    bench_rehearse.main(given)  # which is there
    assert calls == ["8b-lora-v5e"]
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 24
    assert rows[2] == (
        "| 8B | lora | v5e-16 | 2.00 GiB of 16.00 GiB | yes | 1.00 GiB | 0.50 s | 40% | compute "
        "| 9 s |"
    )
    assert sum("not run" in row for row in rows) == 23
    assert json.loads(results.read_text())["8b-lora-v5e"]["fits"]


def test_what_does_not_fit_has_no_step():
    row = bench_rehearse._row("70b-full-v5e", found(fits=False, step_s=None, needed=None))
    assert row[3:] == ["? of 16.00 GiB", "no", "", "", "", "", "9 s"]


def test_a_command_is_of_its_cell(tmp_path):
    own = bench_rehearse.command("70b-qlora-tpu7x", tmp_path / "x.json")
    assert "--config.model.preset=llama3.1-70b" in own
    assert "--config.model.quantize.name=nf4" in own
    assert "--topology=tpu7x-64" in own
    assert "--config.batch_size=64" in own


def test_unknown_cells_are_named():
    with pytest.raises(ValueError, match=r"--cells: got \['8b-lora-v9'\]; expected some of 8b-lo"):
        bench_rehearse.chosen("8b-lora-v9")
