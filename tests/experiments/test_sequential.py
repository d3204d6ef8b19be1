"""A study from its config to its report: resumed, with a cell that diverges, and read back."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from experiments import sequential, train
from ftjax.core import files
from ftjax.run.artifacts import Artifacts
from ftjax.run.shared import Shared
from ftjax.studies import outcomes, stage_changes, stages, study
from tests.lab import ANSWERS, write_study

STUDY = """
def study():
    return dict(
        tasks=("a", "b"), methods=dict(full="full", lora=""), carry="merged",
        rates=dict(lora=(0.05, 1e30), full=(0.01,)), controls=("none", "joint"),
        match=dict(metric="nll", fraction=0.3),
    )
"""


@pytest.fixture(scope="module")
def config(lab, tmp_path_factory):
    return str(write_study(lab, tmp_path_factory.mktemp("study"), STUDY))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder, chosen = tmp_path_factory.mktemp("whole"), study.read(config)
    assert sequential.run(chosen, folder)
    sequential.report(chosen, folder)
    return folder


def test_the_matrix_has_every_example_of_every_stage(whole):
    with np.load(whole / "matrix.npz") as matrix:
        found = {key: matrix[key] for key in matrix}
    rows = {key.rsplit("/", 2)[0] for key in found}
    assert rows == {
        "none/0", "lora_0.05_s0_o0/1", "lora_0.05_s0_o0/2", "full_0.01_s0_o0/1",
        "full_0.01_s0_o0/2", "joint_0.01_s0/1",
    }  # fmt: skip
    for row in rows:
        for label in ANSWERS:
            assert found[f"{row}/{label}/nll"].shape == (8,)
    scored = np.load(whole / "cells" / "full_0.01_s0_o0" / "1_a" / "evals" / "4.npz")
    np.testing.assert_array_equal(found["full_0.01_s0_o0/1/b/nll"], scored["b/nll"])
    first = np.load(whole / "cells" / "lora_0.05_s0_o0" / "1_a" / "evals" / "0.npz")
    np.testing.assert_array_equal(found["none/0/a/nll"], first["a/nll"])


def test_a_stage_starts_where_the_last_one_ended(whole):
    cell = whole / "cells" / "full_0.01_s0_o0"
    end, start = (np.load(cell / p) for p in ("1_a/evals/4.npz", "2_b/evals/0.npz"))
    for name in end:
        np.testing.assert_array_equal(end[name], start[name])


def test_a_cell_that_diverges_is_a_row_with_its_reason(whole):
    report = json.loads((whole / "report.json").read_text())
    cells = {cell["cell"]: cell for cell in report["cells"]}
    lost = cells["lora_1e+30_s0_o0"]
    assert lost["reason"].startswith("a: loop: step 2: got a loss of nan")
    statuses = {label: cell["status"] for label, cell in cells.items()}
    assert statuses == {label: "diverged" if "1e+30" in label else "done" for label in statuses}
    rates = report["methods"]["lora"]["rates"]
    assert rates["1e+30"]["diverged"] == 1
    assert rates["0.05"]["diverged"] == 0
    page = (whole / "report.html").read_text()
    assert "lora_1e+30_s0_o0" in page
    assert "diverged" in page


def test_methods_are_compared_at_the_match(whole):
    report = json.loads((whole / "report.json").read_text())
    assert report["tasks"]["a"]["top_of"] == "joint_0.01_s0"
    matched = {name: own["matched"] for name, own in report["methods"].items()}
    for own in matched.values():
        assert own["rate"] is not None or own["text"].startswith("not reached (best ")
    measures = report["methods"]["full"]["rates"]["0.01"]["measures"]
    assert measures["bwt"]["value"] == pytest.approx(-measures["forgetting"]["value"])
    assert set(measures) > {"avg_accuracy", "learning_accuracy", "intransigence"}


def test_a_part_is_reported_from_the_cells_of_the_whole(config, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "whole")
    monkeypatch.setattr(train, "train", None)  # nothing is left to run
    part = study.with_methods(study.read(config), ["f*"])
    assert sequential.run(part, tmp_path / "whole")
    sequential.report(part, tmp_path / "whole")
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert set(report["methods"]) == set(report["study"]["methods"]) == {"full"}
    cells = {cell["cell"] for cell in report["cells"]}
    assert cells == {"full_0.01_s0_o0", "joint_0.01_s0"}


def test_a_page_that_was_not_drawn_is_drawn_by_the_next_call(config, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "moved")
    found = sorted((tmp_path / "moved" / "cells").glob("*/*/report.html"))
    assert len(found) == 5  # all but that of the stage that diverged
    assert not list((tmp_path / "moved").rglob("*.job.json"))
    lost, other = found[1], found[2]
    for path in (lost, other):
        path.unlink()
    job = Artifacts(lost.parent).report_job
    files.write_json(job, dict(title="as it was", config={}))
    monkeypatch.setattr(train, "train", None)  # nothing is run for it
    assert sequential.run(study.read(config), tmp_path / "moved")
    assert "as it was" in lost.read_text()
    assert not job.exists()
    assert not other.exists()  # somebody has removed it


def test_the_base_is_measured_once_for_all_stages(config, whole, tmp_path):
    chosen = dataclasses.replace(study.read(config), changes=("path", "states"))

    def measured(name, *numbers):
        """Measure some first stages with one `Changes`; returns it and what it wrote last."""
        shutil.copytree(whole, folder := tmp_path / name)
        measure, calls = stage_changes.Changes(chosen, folder, shared=Shared()), []
        measure._prepare()
        states, losses = measure._states, measure._losses["a"]
        measure._states = lambda *given: calls.append("states") or states(*given)
        measure._losses["a"] = lambda params: calls.append("losses") or losses(params)
        for number in numbers:
            stage = stages.stages(chosen, stages.cells(chosen)[number], folder)[0]
            measure(stage)
        return calls, files.read_json(stage.changes)

    cells = [cell.label for cell in stages.cells(chosen)]
    full, lora = cells.index("full_0.01_s0_o0"), cells.index("lora_0.05_s0_o0")
    calls, found = measured("both", full, lora)
    labels, amounts = len(ANSWERS), len(stage_changes.AMOUNTS)
    assert calls.count("states") == labels * (1 + 2)  # of the base, and of both
    assert calls.count("losses") == 1 + 2 * (amounts - 1)
    assert found == measured("alone", lora)[1]
    assert found["path"]["0"] != found["path"]["1"]


class Killed(BaseException):
    """What no handler catches."""


def test_a_killed_study_ends_with_the_same_matrix(config, whole, tmp_path, monkeypatch):
    full = dict(methods={"full": "full"}, rates={"full": (0.01,)}, controls=("none",))
    chosen = dataclasses.replace(study.read(config), **full)
    calls, run = [], train.train

    def kill_after(count):
        def call(*args, **more):
            calls.append(args)
            outcome = run(*args, **more)
            if len(calls) == count:
                raise Killed
            return outcome

        return call

    monkeypatch.setattr(train, "train", kill_after(2))  # trained, and not recorded as ended
    with pytest.raises(Killed):
        sequential.run(chosen, tmp_path)
    monkeypatch.setattr(stages.Stage, "end", lambda *_, **__: (_ for _ in ()).throw(Killed))
    monkeypatch.setattr(train, "train", run)
    with pytest.raises(Killed):
        sequential.run(chosen, tmp_path)
    monkeypatch.undo()
    assert sequential.run(chosen, tmp_path)
    for name, folder in (("wanted", whole), ("found", tmp_path)):
        cells = [outcomes.collect(chosen, cell, folder) for cell in stages.cells(chosen)]
        outcomes.write(tmp_path / f"{name}.npz", outcomes.base(folder), cells)
    assert (tmp_path / "found.npz").read_bytes() == (tmp_path / "wanted.npz").read_bytes()
    monkeypatch.setattr(train, "train", None)  # nothing is left to run
    assert sequential.run(chosen, tmp_path)


def test_another_study_in_its_folder_is_refused(config, whole, tmp_path):
    other, text = tmp_path / "own.py", pathlib.Path(config).read_text()
    other.write_text(text.replace("= 4, 8, 2, 2", "= 5, 8, 2, 2"))
    with pytest.raises(ValueError, match="which was run with another config"):
        sequential.run(study.read(str(other)), whole)
    other.write_text(text.replace("data=rows(label))", "data=rows(label), rows=4)"))
    with pytest.raises(ValueError, match="whose base was evaluated otherwise"):
        sequential.run(study.read(str(other)), whole)
