"""From which step members go on, and which lists of members a directory takes."""

import dataclasses
import types

import numpy as np
import pytest
import safetensors.numpy

from experiments import members
from ftjax.run import member_parts, member_runs
from ftjax.run.artifacts import Artifacts
from ftjax.run.member_settings import Listed


class Saved:
    """The checkpoints of a member, of which some are damaged."""

    def __init__(self, *steps, damaged=()):
        self._steps, self._damaged = set(steps), set(damaged)

    def steps(self):
        return sorted(self._steps)

    def is_good(self, step):
        if step not in self._damaged:
            return True
        self._steps.remove(step)  # set aside
        return False


def common(**members):
    of = lambda name, saved: types.SimpleNamespace(
        checkpoints=saved, artifacts=types.SimpleNamespace(workdir=name)
    )
    return member_runs._common({name: of(name, saved) for name, saved in members.items()})


def test_they_go_on_from_the_newest_step_that_all_have():
    assert common(a=Saved(4, 8), b=Saved(4, 8)) == 8
    assert common(a=Saved(4, 8), b=Saved(2, 4)) == 4  # killed between two saves


def test_none_has_saved_or_they_were_killed_in_their_first_save():
    assert common(a=Saved(), b=Saved()) is None
    assert common(a=Saved(4), b=Saved()) is None


def test_a_damaged_step_of_one_is_not_taken_by_any():
    assert common(a=Saved(4, 8), b=Saved(4, 8, damaged=[8])) == 4


def test_one_that_has_lost_its_checkpoints_is_named():
    with pytest.raises(ValueError, match=r"^a: got checkpoints \[4, 8\].*put the missing ones"):
        common(a=Saved(4, 8), b=Saved())


def settings():
    return types.SimpleNamespace(compile_cache="")


def test_a_directory_keeps_its_list_of_members_and_how_they_train(tmp_path):
    member_runs.write(tmp_path, ["a", "b"], how="map")
    others = {"a": settings(), "c": settings()}
    with pytest.raises(ValueError, match="has the members a, b; expected those of the config"):
        with member_runs.opened(tmp_path, others, Listed([])):
            pass
    same = {"a": settings(), "b": settings()}
    with pytest.raises(ValueError, match=r"how: got 'vmap' in .* began with 'map'"):
        with member_runs.opened(tmp_path, same, Listed([], how="vmap")):
            pass


def test_rungs_are_evaluations_before_the_last_step():
    settings = types.SimpleNamespace(evals={"task": None}, eval_every_steps=6)
    found = {"a": types.SimpleNamespace(settings=settings, length=types.SimpleNamespace(steps=12))}
    made = lambda **given: member_parts.halving(Listed([], halving=given), found)
    assert member_parts.halving(Listed([]), found) is None
    assert made(metric="eval/task/nll", rungs=(6,)).rungs == (6,)
    for wrong in (4, 12):
        with pytest.raises(ValueError, match=rf"halving.rungs: got \[{wrong}\]; expected multip"):
            made(metric="eval/task/nll", rungs=(wrong,))
    with pytest.raises(ValueError, match=r"got metric 'eval/tsk/nll' .* expected a metric of eval"):
        made(metric="eval/tsk/nll", rungs=(6,))
    with pytest.raises(ValueError, match=r"halving.rung: unknown key; did you mean 'rungs'"):
        made(metric="eval/task/nll", rung=(6,))


def test_the_directory_of_a_run_takes_no_members(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="which holds a run; expected a directory for members"):
        with member_runs.opened(tmp_path, {"a": settings()}, Listed([])):
            pass


def test_what_a_run_leaves_beside_its_weights_is_there_of_each_member(lab, tmp_path, use_devices):
    """Importance of weights for the run after, and the answers of both evaluations."""
    use_devices(1)
    old = dict(name="ewc", weight=1.0, rows=4, fisher="empirical", data=lab.rows())
    first = lab.settings(**{
        "penalties": dict(old=old, path=dict(name="si", weight=1.0)), "steps": 2,
        "evals.answers": dict(
            name="generate", group="new", data=lab.raw(), rows=4, max_new_tokens=2),
    })  # fmt: skip
    seeds = dataclasses.replace(first.seed, data=7)
    plain = first.plain | {"seed": first.plain["seed"] | {"data": 7}}
    second = dataclasses.replace(first, seed=seeds, plain=plain)
    members.run({"a": first, "b": second}, Listed([{}, {}]), tmp_path)
    left = {}
    for name in ("a", "b"):
        own = Artifacts(tmp_path / name)
        assert own.answers("answers", 0).is_file()
        assert own.answers("answers", 2).is_file()
        for label in ("old", "path"):
            found = safetensors.numpy.load_file(own.importance(label))
            left[name, label] = np.concatenate([found[key].ravel() for key in sorted(found)])
            assert left[name, label].max() > 0
    # The old data are one for both, the way that each has gone is not.
    np.testing.assert_array_equal(left["a", "old"], left["b", "old"])
    assert np.abs(left["a", "path"] - left["b", "path"]).max() > 0
