"""A deeper model is no larger program: its blocks are one scan."""

import dataclasses

import jax
import jax.extend.core
import pytest

from ftjax.adapters.lib import protocol
from ftjax.models.hf import checkpoint
from ftjax.objectives import sft
from ftjax.optim import optimizer
from ftjax.train import state as states
from ftjax.train import step as steps
from tests.laws import subjects


def equations(jaxpr):
    """Count the equations of a program, those of its inner programs too."""
    inner = [
        each
        for eqn in jaxpr.eqns
        for value in eqn.params.values()
        for each in (value if isinstance(value, list | tuple) else [value])
    ]
    programs = [x.jaxpr if isinstance(x, jax.extend.core.ClosedJaxpr) else x for x in inner]
    programs = [x for x in programs if isinstance(x, jax.extend.core.Jaxpr)]
    return len(jaxpr.eqns) + sum(map(equations, programs))


def deep(family, layers):
    """Make a model of so many layers."""
    module = checkpoint.family_of(family)
    return module.make(dataclasses.replace(module.from_hf(module.EXAMPLE), layers=layers))


def gradient_size(family, layers):
    """Count the equations of a forward and a backward pass."""
    model, batch = deep(family, layers), subjects.batch()

    def total(params):
        return model.hidden(
            params, batch["tokens"], positions_BT=batch["positions"],
            segments_BT=batch["segments"],
        ).sum()  # fmt: skip

    return equations(jax.make_jaxpr(jax.grad(total))(model.abstract).jaxpr)


def step_size(family, layers, patterns):
    """Count the equations of a whole training step."""
    model = deep(family, layers)
    init = lambda key: protocol.init(
        subjects.method("lora"), key, model.linears, model.abstract, where="blocks/**"
    )
    params = {"model": model.abstract, "adapters": jax.eval_shape(init, jax.random.key(0))}
    optim = optimizer.make(name="adamw", learning_rate=1e-2, schedule="constant", total_steps=3)
    trainable, frozen = states.split(params, patterns)
    create = lambda tree: states.create(tree, optim.tx, key=jax.random.key(0))
    step = steps.make_step(model, sft.make(), optim.tx, accumulate=2, chunk=subjects.CHUNK)
    state = jax.eval_shape(create, trainable)
    return equations(jax.make_jaxpr(step)(state, frozen, subjects.batch()).jaxpr)


@pytest.mark.parametrize("family", subjects.by_program())
def test_a_gradient_of_32_layers_is_as_large_a_program_as_of_8(family):
    """Of fewer layers a pattern may not have turned once: then each is written out."""
    some, many = (gradient_size(family, layers) for layers in (8, 32))
    assert many == some > 100


@pytest.mark.parametrize("patterns", ["adapters/**", "model/**"])
def test_a_step_of_32_layers_is_as_large_a_program_as_of_4(patterns):
    few = step_size(subjects.PLAIN, 4, patterns)
    assert few > 300
    assert step_size(subjects.PLAIN, 32, patterns) == few
