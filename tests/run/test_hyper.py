"""Numbers of a run are arguments of its step: runs that differ in them are one program."""

import jax
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import hyper, plan
from ftjax.train import step as steps
from tests.laws import subjects

SMALL = {"optim.weight_decay": 0.1, "ema_decay": 0.5}
LARGE = {
    "optim.learning_rate": 3e-3, "optim.weight_decay": 0.3, "optim.clip_norm": 0.01,
    "ema_decay": 0.25,
}  # fmt: skip


def program(lab, numbers):
    mesh = meshes.make(data=1, devices=jax.devices()[:1])
    return plan.program(lab.settings(**SMALL | numbers), mesh=mesh)


def test_runs_that_differ_in_numbers_are_one_program(lab):
    def text(p):
        return plan.compiled_step(p).lower(p.state, p.hyper, p.frozen, subjects.batch()).as_text()

    few, others = program(lab, {}), program(lab, LARGE)
    assert tree.paths(few.hyper) != tree.paths(others.hyper)
    assert len(tree.paths(others.hyper)) == len(LARGE)
    assert text(few) == text(others)


@pytest.mark.parametrize("key", ["optim.weight_decay", "ema_decay", "optim.clip_norm"])
def test_what_is_switched_off_is_no_argument(lab, key):
    off = program(lab, {key: 0.0 if key == "optim.weight_decay" else None})
    assert tree.paths(off.hyper).keys() < tree.paths(program(lab, {}).hyper).keys()


def test_a_traced_number_takes_the_place_of_the_config_s(lab):
    p = program(lab, LARGE)
    assert hyper.put(program(lab, {}).settings, p.hyper).optim["clip_norm"] == np.float32(0.01)


NUMBERS = [(name, key) for name, module in subjects.OBJECTIVES.items() for key in module.SPEC.hyper]


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_a_traced_number_of_an_objective_is_the_number(name, key):
    module = subjects.OBJECTIVES[name]
    model, batch = subjects.model(subjects.PLAIN), subjects.batch_for(name)
    params = subjects.params_for(name, {"model": subjects.weights(subjects.PLAIN)})
    holes = jax.tree.map(lambda _: None, params)

    def gradient(value):
        objective = module.make(**module.EXAMPLE | {key: value})
        options = dict(chunk=subjects.CHUNK, reference=subjects.reference_for(name))
        run = steps.make_gradients(model, objective, **options)
        grads, metrics = run(params, holes, batch, jax.random.key(0), lambda x: x)
        return grads, metrics["loss"]

    plain = jax.jit(lambda: gradient(0.05))()
    traced, moved = (jax.jit(gradient)(np.float32(value)) for value in (0.05, 0.3))
    assert float(plain[1]) != pytest.approx(float(moved[1]), abs=1e-6)
    subjects.close(traced, plain)
