"""Members over an axis of the mesh: each part of it trains its own, and asks for no other's."""

import jax
import numpy as np
import pytest

from ftjax.run import hlo, member_arrays, member_parts, member_settings
from ftjax.run import plan as plans

CONFIG = """
from configs import common


def get_config(arg=None):
    c = common.base()
    c.model.base = {base!r}
    c.adapter = dict(name="lora", where="blocks/**", rank=2, alpha=4.0)
    c.data = dict(name="jsonl", path={rows!r}, kind="prompt", max_tokens=64)
    c.optim.name, c.optim.learning_rate = "sgd", 1.0  # Adam makes steps of rounding where g is 0
    c.steps, c.batch_size, c.log_every_steps = 3, 8, 1
    return c
"""
ROWS = [{"lr": lr, "rank": rank, "seed": seed}
        for lr, rank, seed in ((1.0, 2, 0), (2.0, 4, 1), (3.0, 2, 2), (2.0, 2, 3))]  # fmt: skip


@pytest.fixture(scope="module")
def config(lab):
    path = lab.root / "members_of_axis.py"
    path.write_text(CONFIG.format(base=str(lab.root / "base"), rows=str(lab.root / "rows.jsonl")))
    return str(path)


def start(config, folder, rows=ROWS, *, how="map", **sizes):
    """Make the step of members on a mesh and what it takes."""
    texts = [f"mesh.{axis}={count}" for axis, count in (dict(data=1) | sizes).items()]
    chosen = member_settings.read(config, texts, member_settings.Listed(rows))
    found = member_parts.plan(chosen)
    whole = member_arrays.Arrays(found)
    firsts, frozen = member_parts.weights(found, folder)
    batches = member_parts.batches(found)
    state, both = whole.start(list(firsts.values())), whole.frozen(list(frozen.values()))
    return whole, whole.compiled(how), (state, whole.hyper(), both), batches


def train(config, folder, count=3, **options):
    """Return the losses [steps, M] and what each member has learned."""
    whole, step, (state, numbers, both), batches = start(config, folder, **options)
    losses = []
    for _ in range(count):
        state, metrics = step(state, numbers, both, next(batches))
        losses.append(jax.device_get(metrics["loss"]))
    assert step.compilations() == 1
    return np.array(losses), [whole.own(i)(state).params for i in range(len(ROWS))]


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """The members on one device."""
    with pytest.MonkeyPatch.context() as patch:
        make = member_arrays.meshes.make
        patch.setattr(
            member_arrays.meshes, "make", lambda **sizes: make(**sizes, devices=jax.devices()[:1])
        )
        return train(config, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_over_an_axis_of_members_they_are_the_same(config, tmp_path, alone, how):
    losses, params = train(config, tmp_path, how=how, member=2, fsdp=2, sequence=2)
    assert len(set(losses.ravel().tolist())) == losses.size
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for own, other in zip(params, alone[1], strict=True):
        for ours, theirs in zip(*map(jax.tree.leaves, (own, other)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_no_device_sends_to_those_of_other_members(config, tmp_path):
    _, step, given, batches = start(config, tmp_path, member=4, fsdp=2)
    a = given[0].each.params["adapters"]["blocks"]["attn"]["q"].a
    assert a.shape[0] == 4
    assert a.sharding.shard_shape(a.shape)[0] == 1
    module = hlo.parse(step.lower(*given, next(batches)).compile().as_text())
    member_of = [index // 2 for index in range(8)]
    sent = hlo.collectives(module, slices=member_of)
    assert {own.network for own in sent} == {"ici"}  # "dcn" would join two members


@pytest.mark.parametrize(("count", "parts"), [(3, 1), (1, 1), (6, 2)])
def test_parts_that_do_not_get_as_many_members_are_refused(config, tmp_path, count, parts):
    rows = [{"lr": 1.0, "rank": 2, "seed": seed} for seed in range(count)]
    message = rf"mesh\.member: got 4 with {count} members; .* use mesh\.member={parts}$"
    with pytest.raises(ValueError, match=message):
        start(config, tmp_path, rows, member=4, fsdp=2)


def test_one_run_has_no_members(lab):
    p = plans.program(lab.settings(**{"mesh.data": 4, "mesh.member": 2}))
    with pytest.raises(ValueError, match=r"mesh\.member: got 2 for one run; expected 1"):
        plans.compiled_step(p)
