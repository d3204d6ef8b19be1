"""Compile one and the same step for many devices: with jit, or with pmap.

`jit` is right nearly always: arrays are global, sharded over the axes of the mesh, and the compiler
puts in the communication. `pmap` is right for plain replicated data parallelism where one wants to
see the single reduction by name, or to compare with code that is written so. In current JAX it is a
wrapper over jit and shard_map, so it is no faster, and every device holds all weights. It takes no
compiler options: in bfloat16 a policy and its reference agree under `jit` alone (`core.rounding`).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ftjax.core import mesh as meshes
from ftjax.core import rounding

# pmap knows one axis, and it splits the batch.
AXIS = "data"
# It comes once a program, out of the cache on the disk too; caches of jit count other things.
EVENT = "/jax/core/compile/backend_compile_duration"
_compiled: list[str] = []  # one entry a program


def _note(event: str, *_, **__) -> None:
    if event == EVENT:
        _compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(_note)


def programs() -> int:
    """Count the programs that this process has compiled, or taken from the cache on the disk."""
    return len(_compiled)


def jit(step: Callable, *, mesh, state, dtype=jnp.float32, metrics=None) -> Callable:
    """Compile `step(state, hyper, frozen, batch)` for global arrays; `state` has its shardings.

    dtype: the type of the computation, see `core.rounding`. metrics: their sharding; None puts them
    on every device.

    The state is donated; the other arguments are neither donated nor returned. Output shardings are
    explicit: without them the second call would compile again.
    """
    compiled = jax.jit(
        # The old state's memory becomes the new one's: without it both live at once.
        step, donate_argnums=0, out_shardings=(state, metrics or meshes.replicated(mesh)),
        compiler_options=rounding.compiler_options(dtype, mesh.devices.flat[0].platform),
    )  # fmt: skip
    return Compiled(compiled, mesh)


class Compiled:
    """A jitted function that runs under its mesh."""

    def __init__(self, function: Callable, mesh):
        self.function, self.mesh, self._programs = function, mesh, 0
        self._begun: Future | None = None

    def begin(self, *arguments) -> None:
        """Compile for (abstract) arguments in a thread: XLA leaves Python to who does other things.

        The first call waits for it, and raises what it raised. Once only; joined processes compile
        when they call, all in the same order.
        """
        if self._begun or self._programs or jax.process_count() > 1:
            return
        threads = ThreadPoolExecutor(1, "compile")
        # jit keeps the program by its arguments, and the call finds it.
        self._begun = threads.submit(lambda: self.lower(*arguments).compile())
        threads.shutdown(wait=False)

    def __call__(self, *arguments):
        """Run the function; its activations are laid out on the mesh."""
        if self._begun and not self._programs:
            self._begun.result()
            self._programs = 1
        before = programs()
        with jax.set_mesh(self.mesh):
            result = self.function(*arguments)
        self._programs += programs() - before
        return result

    def lower(self, *arguments):
        """Lower the function for (abstract) arguments, as `jax.jit` does."""
        with jax.set_mesh(self.mesh):
            return self.function.lower(*arguments)

    def compilations(self) -> int:
        """Count the programs compiled so far; jit's own count has entries that are no programs."""
        return self._programs


class Mapped:
    """A pmapped function with the interface of `Compiled`: global batches in, one state out."""

    def __init__(self, function: Callable, devices: list):
        self.function, self._count, self._programs = function, len(devices), 0
        # What comes out lies so; a first state that lies otherwise would cost a second program.
        self._out = NamedSharding(
            Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,)), PartitionSpec()
        )

    def begin(self, *arguments) -> None:
        """Do nothing: pmap keeps no program but those of its calls."""

    def __call__(self, state, hyper, frozen, batch):
        """Cut the batch over the devices and run the function."""
        cut = lambda x: np.asarray(x).reshape(self._count, -1, *x.shape[1:])
        before = programs()
        # A no-op once the state is what came out; the first one lies elsewhere and would compile
        # twice.
        state = jax.device_put(state, self._out)
        result = self.function(state, hyper, frozen, jax.tree.map(cut, batch))
        self._programs += programs() - before
        return result

    def lower(self, state, hyper, frozen, batch):
        """Lower the function for abstract arguments, the batch being the global one."""
        cut = lambda x: jax.ShapeDtypeStruct(
            (self._count, x.shape[0] // self._count, *x.shape[1:]), x.dtype
        )
        return self.function.lower(state, hyper, frozen, jax.tree.map(cut, batch))

    def compilations(self) -> int:
        """Count the programs compiled so far."""
        return self._programs


def check_pmap(mesh) -> None:
    """Check that a mesh only replicates.

    Raises:
      ValueError: the mesh shards weights, or there is more than one process.
    """
    if mesh.size != mesh.shape["data"] or jax.process_count() > 1:
        raise ValueError(
            f"compile: got 'pmap' with the mesh {dict(mesh.shape)} over {jax.process_count()} "
            "processes; expected other axes than data to be 1 and one process; use compile='jit'"
        )


def pmap(make_step: Callable, *, mesh) -> Callable:
    """Compile `make_step(reduce=..., shard_key=...)` with jax.pmap over the `data` axis.

    Raises ValueError as `check_pmap` does.
    """
    check_pmap(mesh)
    step = make_step(
        # A sum: each device's part is divided by the weight of the whole batch already.
        reduce=partial(jax.lax.psum, axis_name=AXIS),
        # Rows of different devices must not share their dropout.
        shard_key=lambda key: jax.random.fold_in(key, jax.lax.axis_index(AXIS)),
    )
    devices = list(mesh.devices.flat)
    # The state is broadcast to the devices and one of its equal copies comes back.
    function = jax.pmap(step, AXIS, in_axes=(None, None, None, 0), out_axes=None, devices=devices)
    return Mapped(function, devices)
