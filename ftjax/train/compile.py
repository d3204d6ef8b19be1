"""Compile one and the same step for many devices: with jit, or with pmap.

`jit` is right nearly always: arrays are global, sharded by the mesh over `data`, `fsdp` and
`tensor`, and the compiler puts in the communication. `pmap` is right for plain replicated data
parallelism where one wants to see the single reduction by name, or to compare with code that is
written so. In current JAX it is a wrapper over jit and shard_map, so it is no faster, and every
device holds all weights.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from ftjax.core import mesh as meshes

AXIS = "data"


def jit(make_step: Callable, *, mesh, state, frozen) -> Callable:
    """Compile `make_step()` for global arrays.

    `state` and `frozen` are trees of shardings. The state is donated; the frozen tree is neither
    donated nor returned. Without explicit output shardings the second call would compile again.
    """
    step = make_step()
    compiled = jax.jit(step, donate_argnums=0, out_shardings=(state, meshes.replicated(mesh)))
    del frozen  # its arrays carry their shardings

    def run(state, frozen, batch):
        with jax.set_mesh(mesh):
            return compiled(state, frozen, batch)

    run.compiled = compiled
    return run


def pmap(make_step: Callable, *, mesh) -> Callable:
    """Compile `make_step(reduce=..., shard_key=...)` with jax.pmap over the `data` axis.

    The interface stays that of `jit`: global batches go in, one copy of the state comes and goes.

    Raises:
      ValueError: the mesh shards weights.
    """
    if mesh.shape["fsdp"] * mesh.shape["tensor"] != 1:
        raise ValueError(
            f"compile: got 'pmap' with the mesh {dict(mesh.shape)}; expected fsdp = tensor = 1, "
            "pmap replicates; use compile='jit'"
        )
    step = make_step(
        reduce=partial(jax.lax.psum, axis_name=AXIS),
        shard_key=lambda key: jax.random.fold_in(key, jax.lax.axis_index(AXIS)),
    )
    count = mesh.shape["data"]
    compiled = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, devices=list(mesh.devices.flat)
    )

    def run(state, frozen, batch):
        cut = lambda x: np.asarray(x).reshape(count, -1, *x.shape[1:])
        return compiled(state, frozen, jax.tree.map(cut, batch))

    run.compiled = compiled
    return run
