"""Penalties of a config: their data, where their arrays lie, their name in a checkpoint."""

import jax
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import penalty
from ftjax.run import plan as running
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
        about = path.partition("/fisher/")[2] or path.partition("/start/")[2]
        assert leaf.sharding == own[about].sharding == abstract[path].sharding, path
        sharded += not leaf.sharding.is_fully_replicated
        np.testing.assert_allclose(leaf, tree.paths(one)[path], rtol=2e-3, atol=1e-6)
    assert sharded
    assert max(float(leaf.max()) for leaf in jax.tree.leaves(one["old"]["fisher"])) > 0


def test_a_run_with_them_trains_and_goes_on(lab, tmp_path):
    penalties = dict(near=dict(name="l2sp", weight=0.1), old=old(lab, fisher="empirical"))
    changes = {"penalties": penalties, "checkpoint.every_steps": 2}
    workdir = lab.run("held", tmp_path, **changes, steps=2)
    rows = metrics(workdir)
    assert rows[0]["penalty/near"] == rows[0]["penalty/old"] == 0
    assert rows[-1]["penalty/near"] > 0
    assert rows[-1]["penalty/old"] > 0


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
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(lab, spec, message):
    with pytest.raises(ValueError, match=message):
        running.plan(lab.settings(penalties=dict(p=spec)))
