"""Penalties of a config: their data, where their arrays lie, their name in a checkpoint."""

import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from ftjax.core import digest, tree
from ftjax.core import mesh as meshes
from ftjax.run import build, penalty
from ftjax.run import plan as running
from ftjax.run.artifacts import Artifacts
from tests.lab import metrics


def old(lab, **more):
    return dict(name="ewc", weight=1.0, rows=4, data=lab.rows()) | more


def arrays_of(settings, **axes):
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    mesh = meshes.make(**axes, devices=devices)
    plan = running.plan(settings, mesh=mesh)
    _, frozen = running.arrays(plan)
    plan.loader.close()
    return plan, frozen["penalties"]


def test_arrays_lie_where_their_weights_lie_and_are_the_same_on_any_mesh(lab):
    settings = lab.settings(penalties=dict(old=old(lab)))
    _, one = arrays_of(settings, data=1)
    plan, four = arrays_of(settings, data=1, fsdp=2, tensor=2)
    own, abstract = tree.paths(plan.parts.abstract), tree.paths(plan.frozen["penalties"])
    sharded = 0
    for path, leaf in tree.paths(four).items():
        about = path.partition("/importance/")[2] or path.partition("/start/")[2]
        assert leaf.sharding == own[about].sharding == abstract[path].sharding, path
        sharded += not leaf.sharding.is_fully_replicated
        np.testing.assert_allclose(leaf, tree.paths(one)[path], rtol=2e-3, atol=1e-6)
    assert sharded
    assert max(float(leaf.max()) for leaf in jax.tree.leaves(one["old"]["importance"])) > 0


LEFT = ("old", "outputs", "path")


def every(lab, **more):
    """A config with every penalty that needs no adapter of a kind, saved at each step."""
    own = lambda name, **keys: dict(name=name, weight=0.1, **keys, **more)
    penalties = dict(
        near=dict(name="l2sp", weight=0.1), old=old(lab, fisher="empirical", **more),
        outputs=own("mas", rows=4, data=lab.rows()), path=own("si"),
    )  # fmt: skip
    return {"penalties": penalties, "checkpoint.every_steps": 1, "checkpoint.keep": 3}


@pytest.fixture(scope="module")
def first(lab, tmp_path_factory):
    return lab.run("first", tmp_path_factory.mktemp("penalties"), **every(lab))


@pytest.fixture(scope="module")
def second(lab, first, tmp_path_factory):
    """A run after it, which has what it left."""
    workdir = tmp_path_factory.mktemp("penalties")
    return lab.run("second", workdir, **every(lab, past=str(first), decay=0.5))


def left(workdir):
    return {
        label: safetensors.numpy.load_file(Artifacts(workdir).importance(label)) for label in LEFT
    }


def test_a_run_with_them_trains_and_leaves_what_it_found(first):
    rows = metrics(first)
    for label in ("near", *LEFT):
        assert rows[0][f"penalty/{label}"] == 0, label
    # The first of a sequence has no path behind it.
    assert [rows[-1][f"penalty/{label}"] > 0 for label in ("near", *LEFT)] == [True] * 3 + [False]
    for label, arrays in left(first).items():
        assert max(x.max() for x in arrays.values()) > 0, label
        assert min(x.min() for x in arrays.values()) >= 0, label


def test_the_run_after_it_adds_to_that(first, second):
    assert metrics(second)[-1]["penalty/path"] > 0
    before, after = left(first), left(second)
    for label in ("old", "outputs"):  # of the same base and data both found the same
        for path, array in before[label].items():
            np.testing.assert_allclose(after[label][path], 1.5 * array, rtol=1e-5)
    for path, array in before["path"].items():
        assert (after["path"][path] >= 0.5 * array).all(), path


def test_resumed_it_is_the_whole(lab, first, second, tmp_path):
    work = tmp_path / "again"
    shutil.copytree(second, work)
    shutil.rmtree(work / "penalties")
    for step in (2, 3):
        shutil.rmtree(work / "checkpoints" / str(step))
    lab.run("again", tmp_path, **every(lab, past=str(first), decay=0.5))
    assert metrics(work) == metrics(second)
    jax.tree.map(np.testing.assert_array_equal, left(work), left(second))


def test_cut_and_sharded_otherwise_it_is_the_same(lab, first, second, tmp_path, use_devices):
    use_devices(4)
    over = {"accumulate": 2, "mesh.data": 2, "mesh.fsdp": 2}
    other = lab.run("other", tmp_path, **(every(lab, past=str(first), decay=0.5) | over))
    for one, two in zip(metrics(other), metrics(second), strict=True):
        for name in [name for name in two if name.startswith(("penalty/", "loss"))]:
            assert one[name] == pytest.approx(two[name], rel=2e-3, abs=1e-6), name
    near = lambda x, y: np.testing.assert_allclose(x, y, rtol=5e-3, atol=1e-4 * abs(y).max())
    jax.tree.map(near, left(other), left(second))


def test_fisher_information_of_nothing_is_said(lab):
    settings = lab.settings(penalties=dict(old=old(lab)))
    plan = running.plan(settings)
    plan.loader.close()
    one = plan.penalties["old"]
    # A batch without a target: its Fisher information is 0.
    empty = one._replace(batch=one.batch | {"weights": 0 * one.batch["weights"]})
    params = build.weights(plan.parts)
    with pytest.warns(RuntimeWarning, match=r"penalties\.old: got data .* the trace 0; expected 0"):
        penalty.arrays({"old": empty}, plan.parts, params)


def test_other_data_are_another_penalty(lab):
    settings = lab.settings(penalties=dict(old=old(lab)))
    plan = running.plan(settings)
    plan.loader.close()
    (one,) = plan.penalties.values()
    other = one._replace(batch=one.batch | {"tokens": one.batch["tokens"] + 1})
    spec = settings.penalties["old"]
    assert one.digest(spec) == penalty.identity(plan.penalties, settings)["old"]
    assert len({one.digest(spec), other.digest(spec), one.digest(spec | {"seed": 1})}) == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(name="ewc", weight=1.0), r"penalties\.p\.data: got none for 'ewc'; expected a sec"),
        (dict(name="l2sp", weight=1.0, data=dict(name="jsonl", path="a.jsonl")),
         r"penalties\.p\.data: got a section for 'l2sp'; expected none; drop it"),
        (dict(name="l2sp", weight=1.0, trains=()), r"penalties\.p\.trains: got a value; expected"),
        (dict(name="si", weight=1.0, past="nowhere"),
         r"penalties\.p\.past: got 'nowhere', which has no p\.safetensors under penalties"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(lab, spec, message):
    with pytest.raises(ValueError, match=message):
        running.plan(lab.settings(penalties=dict(p=spec)))


def test_a_path_under_adapters_needs_a_reference_of_its_own(lab):
    own = dict(penalties=dict(p=dict(name="si", weight=1.0)))
    own |= {"objective": dict(name="distillation", nll=1.0)}
    with pytest.raises(
        ValueError, match=r"penalties\.p\.name: got 'si' .* reference.name='frozen'"
    ):
        running.program(lab.settings(**own))
    running.program(lab.settings(**own, **{"reference.name": "frozen"}))


def test_what_another_model_left_is_refused(lab, first, tmp_path):
    arrays = {"blocks/attn/q": np.ones((1, 2, 3), np.float32)}
    path = Artifacts(tmp_path).importance("p")
    path.parent.mkdir()
    safetensors.numpy.save_file(arrays, path)
    digest.sign(path)
    spec = dict(name="si", weight=1.0, past=str(tmp_path))
    with pytest.raises(ValueError, match=r"past: got .*, a run of another model: blocks/attn/q is"):
        running.program(lab.settings(penalties=dict(p=spec)))
