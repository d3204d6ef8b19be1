"""One run on one device and on eight; jit and pmap; a checkpoint taken to another mesh."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import inputs, saved_state, session
from ftjax.run import plan as running
from ftjax.train import loop
from ftjax.train import state as states
from tests.lab import metrics

EIGHT = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
FULL = {"adapter": dict(name="", where="blocks/**"), "accumulate": 2}
WAYS = {"lora": {"accumulate": 2}, "full": FULL}
each_way = pytest.mark.parametrize("way", WAYS)


@dataclasses.dataclass
class Steps:
    plan: running.Plan
    state: states.State
    frozen: dict
    rows: list
    pointers: dict  # of the frozen arrays, before the first step


def pointers(arrays):
    return {
        path: [shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards]
        for path, leaf in tree.paths(arrays).items()
    }


def steps(settings, count=3):
    """Do some steps of a plan, without a loop around them."""
    plan = running.plan(settings)
    state, frozen = running.arrays(plan)
    before, rows = pointers(frozen), []
    step, batches = running.compiled_step(plan), inputs.Batches(plan.loader, plan.parts.mesh)
    for _ in range(count):
        state, found = step(state, plan.hyper, frozen, next(batches))
        rows.append({name: loop_value(metric) for name, metric in found.items()})
    plan.loader.close()
    assert step.compilations() == 1
    return Steps(plan, state, frozen, rows, before)


def loop_value(metric):
    return float(metric.value()) if hasattr(metric, "value") else float(metric)


@pytest.fixture(scope="module")
def found(lab):
    """Three steps of each way on one device and on eight; made when first asked for."""
    made = {}

    def of(way, count):
        if (way, count) not in made:
            with pytest.MonkeyPatch.context() as patch:
                make, some = meshes.make, jax.devices()[:count]
                patch.setattr(meshes, "make", functools.partial(make, devices=some))
                changes = EIGHT if count == 8 else {}
                made[way, count] = steps(lab.settings(**WAYS[way] | changes))
        return made[way, count]

    return of


@each_way
def test_three_steps_are_the_same_on_one_device_and_on_eight(way, found):
    one, eight = found(way, 1), found(way, 8)
    assert len({each["loss"] for each in one.rows}) == 3
    for a, b in zip(one.rows, eight.rows, strict=True):
        assert a.keys() == b.keys()
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    moved = tree.paths(eight.state.params)
    for path, leaf in tree.paths(one.state.params).items():
        np.testing.assert_allclose(moved[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)


@each_way
@pytest.mark.parametrize("count", [1, 8])
def test_frozen_arrays_stay_where_they_are_and_come_out_nowhere(way, count, found):
    run = found(way, count)
    assert pointers(run.frozen) == run.pointers
    flat = lambda arrays: {p for shards in pointers(arrays).values() for p in shards}
    assert not flat(run.frozen) & flat(run.state._replace(key=None))
    patterns = run.plan.parts.patterns
    assert all(path.startswith(patterns[0][:-2]) for path in tree.paths(run.state.params))
    assert (way == "full") == (not run.pointers)


@each_way
def test_arrays_lie_as_their_letters_say(way, found):
    run = found(way, 8)
    mesh = run.plan.parts.mesh
    whole = tree.combine(run.state.params, run.frozen)
    letters = tree.paths(states.axes(run.plan.parts.model, run.plan.parts.abstract))
    for path, leaf in tree.paths(whole).items():
        spec = meshes.spec(letters[path], leaf.shape, mesh)
        assert leaf.sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), leaf.ndim), path
    q = tree.paths(whole)["model/blocks/attn/q"]  # LDNH
    layers, dim, heads, size = q.shape
    assert q.addressable_shards[0].data.shape == (layers, dim // 2, heads // 2, size)


@each_way
def test_moments_lie_where_their_parameters_lie(way, found):
    run = found(way, 8)
    params, moments = tree.paths(run.state.params), tree.paths(run.state.opt_state)
    for path, leaf in params.items():
        own = [m for name, m in moments.items() if name.endswith("/" + path)]
        assert len(own) == 2
        for moment in own:
            assert moment.sharding.is_equivalent_to(leaf.sharding, leaf.ndim), path
    adam = optax.tree.get(run.state.opt_state, "mu")
    assert tree.paths(adam).keys() == params.keys()
    assert any(not leaf.is_fully_replicated for leaf in params.values())


@pytest.mark.usefixtures("use_two")
@each_way
def test_pmap_computes_what_jit_computes(way, lab):
    """The rows of a batch have unlike numbers of targets, so a mean of means would differ."""
    changes = WAYS[way] | {"mesh.data": 2}
    jitted, mapped = (steps(lab.settings(**changes, compile=kind)) for kind in ("jit", "pmap"))
    batch = jitted.plan.loader.batch(0)
    first, second = np.split(batch["weights"], 2)
    assert first.sum() != second.sum()
    for a, b in zip(jitted.rows, mapped.rows, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-5), name
    others = tree.paths(mapped.state.params)
    for path, leaf in tree.paths(jitted.state.params).items():
        np.testing.assert_allclose(others[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)


@pytest.fixture
def use_two(use_devices):
    use_devices(2)


@pytest.mark.usefixtures("use_two")
def test_a_whole_run_with_pmap(lab, tmp_path):
    """Checkpoints, evaluations and the export take what pmap gives."""
    more = {"evals.task": dict(name="nll", data=lab.rows(max_tokens=64), rows=8)}
    more |= {"checkpoint.every_steps": 2, "mesh.data": 2}
    a, b = (lab.run(kind, tmp_path, compile=kind, **more) for kind in ("jit", "pmap"))
    for one, other in zip(metrics(a), metrics(b), strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert (b / "export" / "adapter_config.json").is_file()


def advance(settings, workdir, until):
    """Go on with the run in a workdir until a step, and save there."""
    plan = running.plan(settings)
    state, frozen = running.arrays(plan)
    batches, writers = inputs.Batches(plan.loader, plan.parts.mesh), session.writers_of(
        settings, workdir, until=until)  # fmt: skip
    with saved_state.open_checkpoints(plan.parts, workdir) as checkpoints:
        state, progress = loop.resume(checkpoints, state, batches, writers=writers)
        result = loop.run(
            running.compiled_step(plan), state, frozen, batches, hyper=plan.hyper, until=until,
            log_every_steps=1,
            writers=writers, checkpoints=checkpoints, progress=progress,
        )  # fmt: skip
    plan.loader.close()
    for writer in writers:
        writer.close()
    return result


def test_a_run_goes_on_with_fewer_devices(lab, tmp_path, use_devices):
    changes = WAYS["lora"] | {"steps": 6}
    use_devices(1)
    advance(lab.settings(**changes), tmp_path / "one", 6)
    advance(lab.settings(**changes), tmp_path / "less", 0)
    meshes_of = {8: EIGHT, 4: {"mesh.data": 1, "mesh.fsdp": 4}, 1: {"mesh.data": 1}}
    for until, (count, mesh) in zip((2, 4, 6), meshes_of.items(), strict=True):
        use_devices(count)
        result = advance(lab.settings(**changes | mesh), tmp_path / "less", until)
        assert result.step == until
    one, less = metrics(tmp_path / "one"), metrics(tmp_path / "less")
    assert [row["step"] for row in less] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(one, less, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["tokens"] == a["tokens"]
