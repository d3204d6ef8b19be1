"""What a run computes is known before its data are read, and for devices that it is not on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ftjax.core import mesh as meshes
from ftjax.core import tree
from ftjax.run import plan as plans

ABSENT = {"data.path": "absent.jsonl"}


def test_the_state_is_known_without_data(lab):
    found, whole = plans.program(lab.settings(**ABSENT)), plans.plan(lab.settings())
    assert jax.tree.structure(found.state) == jax.tree.structure(whole.state)
    assert tree.paths(found.state.params) == tree.paths(whole.state.params)
    assert tree.paths(found.frozen) == tree.paths(whole.frozen)
    with pytest.raises(ValueError, match=r"absent\.jsonl"):
        plans.plan(lab.settings(**ABSENT))


def test_the_step_is_lowered_for_other_devices_without_data(lab):
    mesh = meshes.make(data=2, fsdp=2, devices=jax.devices()[:4])
    p = plans.program(lab.settings(**ABSENT), mesh=mesh)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves((p.state.params, p.frozen))} == {mesh}
    state, metrics = (
        plans.compiled_step(p).lower(p.state, p.hyper, p.frozen, batch(8, 64, mesh)).out_info
    )
    shapes = lambda each: jax.tree.map(lambda x: (x.shape, x.dtype), each)
    assert shapes(state) == shapes(p.state)
    assert "loss" in metrics


def batch(rows, width, mesh):
    """The shapes of a batch of tokens, laid out on a mesh."""
    kinds = dict(tokens=jnp.int32, segments=jnp.int32, positions=jnp.int32, weights=jnp.float32)
    shapes = {name: jax.ShapeDtypeStruct((rows, width), kind) for name, kind in kinds.items()}
    return jax.tree.map(
        lambda x, s: x.update(sharding=s), shapes, meshes.batch_shardings(shapes, mesh)
    )


FULL = {"adapter.name": "", "optim.weight_decay": 0.1, "optim.no_decay": ("**norm",)}


@pytest.mark.parametrize("changes", [{}, FULL])
def test_layers_that_do_not_train_stay_to_the_bit(lab, changes):
    changes = changes | {"trainable_layers": [1], "trainable": ()}
    p = plans.plan(lab.settings(**changes))
    state, frozen = plans.arrays(p)
    before = jax.device_get(state.params)
    step, numbers = plans.compiled_step(p), p.hyper
    for _ in range(2):
        batch = meshes.put_local(next(p.loader), p.parts.mesh, rows=p.loader.batch_size)
        state, _ = step(state, numbers, frozen, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), before, jax.device_get(state.params))
    in_stacks = {path: x for path, x in tree.paths(moved).items() if "/blocks/" in path}
    assert in_stacks
    assert not any(x[0].any() for x in in_stacks.values())
    assert all(x[1].any() for x in in_stacks.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable_layers": [2]}, r"trainable_layers: got layers \[2\].* 0 \.\. 1"),
        ({"trainable_layers": "1"}, r"trainable_layers: got '1'"),
        ({"trainable_layers": [1], "trainable": "model/embed", "adapter.name": ""},
         r"trainable_layers: got \(1,\), and nothing in a stack"),
        ({"optim.groups": [("adapters/**", {"layers": [5], "lr_scale": 0.0})]},
         r"groups\['adapters/\*\*'\]\.layers: got layers \[5\]"),
    ],
)  # fmt: skip
def test_layers_that_the_model_has_not_are_refused(lab, changes, message):
    with pytest.raises(ValueError, match=message):
        plans.program(lab.settings(**changes))
