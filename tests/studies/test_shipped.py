"""Every study under configs/ is read, and the first stage of all its methods is checked."""

import pathlib

import pytest

from ftjax.studies import stages, study

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUDIES = sorted(p for p in (ROOT / "configs").glob("*.py") if "\ndef study():" in p.read_text())
# Cells that each has, so that nobody makes a study of minutes one of hours by a word.
CELLS = dict(
    arena=84, forgetting_8b=18, forgetting_capacity=9, forgetting_medical=36,
    forgetting_recovery=18, forgetting_remedies=24, forgetting_rl=42, forgetting_rules=24,
    forgetting_smoke=10, forgetting_tiny=36, lora_without_regret=42,
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_all_are_known():
    assert {path.stem for path in STUDIES} == set(CELLS)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_it_is_planned(path, tmp_path):
    chosen = study.read(str(path))
    assert len(stages.cells(chosen)) == CELLS[path.stem]
    assert chosen.probes or len(chosen.tasks) > 1
    stages.check(chosen, tmp_path)
    # The one has the stages that others take, and the other every remedy.
    if path.stem not in ("forgetting_tiny", "forgetting_remedies"):
        assert len(path.read_text().splitlines()) <= 60


def test_methods_of_a_study_differ_in_what_they_say(tmp_path):
    chosen = study.read(str(ROOT / "configs" / "forgetting_rl.py"))
    first = {
        cell.method: stages.stages(chosen, cell, tmp_path)[0].settings
        for cell in stages.cells(chosen)
    }
    assert {name: own.objective["name"] for name, own in first.items()} == dict(
        sft="sft", grpo="grpo", rejection="best_of")  # fmt: skip
    assert {name: bool(own.rollout) for name, own in first.items()} == dict(
        sft=False, grpo=True, rejection=True)  # fmt: skip
