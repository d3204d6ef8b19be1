"""What a stage starts from, by every carry, and a study that is killed again and again."""

import contextlib
import dataclasses
import json
import os
import signal
import time

import numpy as np
import pytest
import safetensors.numpy

from experiments import sequential
from ftjax.run import evaluation
from ftjax.studies import stages, study
from tests.lab import finish, start, write_study

STUDY = """
def study():
    return dict(
        tasks=("a", "b"), methods=dict(lora=""), rates=(0.05,), carry="merged",
        match=dict(metric="nll", fraction=0.1), changes=("drift", "spectrum"),
    )
"""
CARRIES = {
    "continued": dict(lora=""), "stacked": dict(lora=""), "merged": dict(lora=""),
    "full": dict(full="full"), "separate": dict(lora=""),
}  # fmt: skip


@pytest.fixture(scope="module")
def config(lab, tmp_path_factory):
    return write_study(lab, tmp_path_factory.mktemp("carries"), STUDY)


@pytest.fixture(scope="module")
def ended(config, tmp_path_factory):
    """Studies that have ended, each run once: carry -> (study, folder)."""
    found = {}

    def make(carry):
        if carry not in found:
            methods = CARRIES[carry]
            rates = dict.fromkeys(methods, (0.01 if carry == "full" else 0.05,))
            own = dict(carry=carry, methods=methods, rates=rates)
            chosen = dataclasses.replace(study.read(str(config)), **own)
            folder = tmp_path_factory.mktemp(carry)
            assert sequential.run(chosen, folder)
            sequential.report(chosen, folder)
            found[carry] = chosen, folder
        return found[carry]

    return make


def workdirs(chosen, folder):
    (cell,) = stages.cells(chosen)
    return [stage.workdir for stage in stages.stages(chosen, cell, folder)]


def scores(workdir, step):
    with np.load(workdir / "evals" / f"{step}.npz") as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.mark.parametrize(
    "carry",
    # A merged model goes on like a full one, and what is stacked like what continues.
    [
        pytest.param(x, marks=[pytest.mark.slow] if x in ("full", "stacked") else [])
        for x in CARRIES
        if x != "separate"
    ],
)
def test_a_stage_starts_with_the_scores_that_the_last_one_ended_with(ended, carry):
    one, two = workdirs(*ended(carry))
    end, begin = scores(one, 4), scores(two, 0)
    for name, wanted in end.items():
        # Merging an adapter rounds once, a stack sums in another order; all else is to the bit.
        rounds = carry in ("merged", "stacked")
        np.testing.assert_allclose(begin[name], wanted, rtol=2e-4 * rounds)
    assert not np.allclose(end["a/nll"], scores(one, 0)["a/nll"], rtol=0.05)
    assert not np.allclose(scores(two, 4)["b/nll"], begin["b/nll"], rtol=0.05)


@pytest.mark.parametrize(("carry", "directions"), [("continued", 2), ("stacked", 4), ("merged", 4)])
def test_the_change_from_the_base_has_the_rank_of_what_trained(ended, carry, directions):
    _, last = [json.loads((w / "changes.json").read_text()) for w in workdirs(*ended(carry))]
    held = last["spectrum"]["energy"]
    assert held[str(directions)] == pytest.approx(1, abs=1e-5)
    assert held[str(directions // 2)] < 1 - 1e-4


def test_changes_are_from_the_base_of_the_study_and_not_of_the_stage(ended):
    for carry in CARRIES.keys() - {"separate"}:
        first, last = [
            json.loads((w / "changes.json").read_text()) for w in workdirs(*ended(carry))
        ]
        # What the first stage taught is still far from the base.
        assert last["spectrum"]["relative_norm"] > first["spectrum"]["relative_norm"] > 0
        assert last["drift"]["a"]["kl_forward"] > 0.5 * first["drift"]["a"]["kl_forward"] > 0


def test_a_stack_keeps_what_is_below_and_an_adapter_that_goes_on_does_not(ended):
    factors = lambda w: safetensors.numpy.load_file(w / "export" / "adapter_model.safetensors")
    one, two = workdirs(*ended("stacked"))
    past = json.loads((two / "config.json").read_text())["adapter"]["past"]
    assert past == [str(one / "export")]
    below = factors(one)
    one, two = workdirs(*ended("continued"))
    before, after = factors(one), factors(two)
    assert before.keys() == after.keys() == below.keys()
    for name, wanted in below.items():
        # Both first stages are the same run.
        np.testing.assert_array_equal(before[name], wanted)
    assert any((before[name] != after[name]).any() for name in before)


def test_tasks_of_their_own_adapters_start_at_the_base_and_keep_their_scores(ended):
    chosen, folder = ended("separate")
    one, two = workdirs(chosen, folder)
    for name, wanted in scores(one, 0).items():
        np.testing.assert_array_equal(scores(two, 0)[name], wanted)
    (cell,) = stages.cells(chosen)
    with np.load(folder / "matrix.npz") as matrix:
        first, last = (matrix[f"{cell.label}/{n}/a/nll"] for n in (1, 2))
        np.testing.assert_array_equal(last, first)
        np.testing.assert_array_equal(first, scores(one, 4)["a/nll"])
        np.testing.assert_array_equal(matrix[f"{cell.label}/2/b/nll"], scores(two, 4)["b/nll"])
    # With the adapter of the other task it is another one.
    assert not np.allclose(scores(two, 4)["a/nll"], first, rtol=1e-3)
    own = dataclasses.replace(chosen, methods=dict(full="full"), rates=dict(full=(0.01,)))
    with pytest.raises(ValueError, match="'separate', where every task has an adapter of its own"):
        stages.check(own, folder)


@pytest.mark.parametrize("carry", CARRIES)
def test_every_carry_ends_with_a_report(ended, carry):
    folder = ended(carry)[1]
    report = json.loads((folder / "report.json").read_text())
    assert report["study"]["carry"] == carry
    (cell,) = report["cells"]
    assert (cell["status"], len(cell["changes"])) == ("done", 2)
    assert len(report["drift"]["points"]) == 1
    assert "What became of the weights" in (folder / "report.html").read_text()


# -- killed many times -----------------------------------------------------------------------------

KILLS = 10


class Killed(BaseException):
    """What no handler catches."""


def one_process():
    """Make a `sharing` by which one process stands for many: it compiles for all of them."""
    sharing, kept = sequential.sharing, []

    @contextlib.contextmanager
    def shared(chosen):
        with sharing(chosen) as own:
            kept.append(own)
            kept[0].pages = own.pages  # which end with their process
            yield kept[0]

    return shared


def test_a_study_killed_ten_times_ends_with_the_same_matrix(config, tmp_path, monkeypatch):
    """Attempts die at one of their first four events: an evaluation, or the record of an end."""
    own = dict(carry="stacked", orders=(("a", "b"), ("b", "a")), changes=("spectrum",))
    chosen = dataclasses.replace(study.read(str(config)), **own)
    monkeypatch.setattr(sequential, "sharing", one_process())
    wanted, found = tmp_path / "wanted", tmp_path / "found"
    assert sequential.run(chosen, wanted)
    sequential.report(chosen, wanted)
    events = []

    def dying(function, at):
        def call(*args, **more):
            events.append(function.__name__)
            if len(events) == at:
                raise Killed
            return function(*args, **more)

        return call

    for kill in range(KILLS):
        events.clear()
        with monkeypatch.context() as patch:
            at = kill % 4 + 1
            patch.setattr(evaluation.Evaluation, "run", dying(evaluation.Evaluation.run, at))
            patch.setattr(stages.Stage, "end", dying(stages.Stage.end, at))
            with pytest.raises(Killed):
                sequential.run(chosen, found)
    assert sequential.run(chosen, found)
    sequential.report(chosen, found)
    for name in ("matrix.npz", "report.json"):
        assert (found / name).read_bytes() == (wanted / name).read_bytes()


@pytest.mark.slow
def test_a_study_whose_process_is_killed_ten_times_ends_with_the_same_matrix(
    config, tmp_path
):  # fmt: skip
    """SIGKILL whenever one more file has appeared that an attempt can leave behind."""
    own = tmp_path / "own.py"
    own.write_text(config.read_text().replace("= 4, 8, 2, 2", "= 12, 8, 1, 1"))
    command = lambda folder: start("--config", own, "--workdir", folder, main="sequential")
    code, _, err = finish(command(tmp_path / "whole"))
    assert code == 0, err
    folder, kills = tmp_path / "killed", 0
    # os.walk passes over folders that the process has just removed, where rglob raises.
    files = lambda: sum(x.endswith(".npz") for _, _, names in os.walk(folder) for x in names)
    while kills < KILLS:
        before, process = files(), command(folder)
        # One more, or two: an attempt whose next one is lost with its step still goes on.
        while process.poll() is None and files() < before + 1 + kills % 2:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills == KILLS
    code, _, err = finish(command(folder))
    assert code == 0, err
    assert (folder / "matrix.npz").read_bytes() == (tmp_path / "whole" / "matrix.npz").read_bytes()
