"""A step that is compiled in a thread before it is called, and one that cannot be."""

import threading

import jax
import jax.numpy as jnp
import pytest

from ftjax.core import mesh as meshes
from ftjax.train import compile as compiling
from ftjax.train import loop
from tests.lab import train


def jitted(step):
    mesh = meshes.make(data=1, devices=jax.devices()[:1])
    everywhere = meshes.replicated(mesh)
    found = compiling.jit(step, mesh=mesh, state=everywhere)
    return found, jax.ShapeDtypeStruct((3,), jnp.float32, sharding=everywhere)


def test_what_was_begun_is_what_is_called():
    threads = []

    def step(state, x):
        threads.append(threading.current_thread())
        return state + x, x.sum()

    run, shape = jitted(step)
    run.begin(shape, shape)
    one = jax.device_put(jnp.arange(3.0), shape.sharding)
    run.begin(shape, shape)  # does nothing a second time
    result, total = run(one + 1, one)
    assert result.tolist() == [1, 3, 5]
    assert float(total) == 3
    assert len(threads) == 1  # traced once, and not by who called
    assert threads[0] is not threading.current_thread()
    assert run.compilations() == 1
    run(result, one)
    assert run.compilations() == 1


def test_the_call_raises_what_the_thread_did():
    def step(state, x):
        raise ValueError("optim.no_decay: got a pattern that matches nothing")

    run, shape = jitted(step)
    run.begin(shape, shape)
    with pytest.raises(ValueError, match=r"no_decay: got a pattern"):
        run(jnp.ones(3), jnp.ones(3))


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh.data": 2, "mesh.fsdp": 4, "ema_decay": 0.9},
        {"adapter": {}, "data.packing": "bfd", "penalties.start": dict(name="l2sp", weight=0.1)},
    ],
    ids=["lora", "full"],
)
def test_a_run_begins_the_very_program_that_it_calls(lab, tmp_path, monkeypatch, changes):
    """Else the first call would compile a second one, of other arguments."""
    found, run = [], loop.run
    monkeypatch.setattr(loop, "run", lambda step, *a, **b: found.append(step) or run(step, *a, **b))
    first, again = (lab.settings(steps=steps, **changes) for steps in (1, 2))
    train(first, tmp_path)
    train(again, tmp_path, allow_config_change=True)  # goes on, and begins nothing
    begun, plain = found
    assert begun._begun.done()
    assert plain._begun is None
    assert begun.compilations() == plain.compilations() == 1
