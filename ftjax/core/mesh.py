"""Meshes, and where every array lies on them: einsum letters -> mesh axes, in one place.

A device mesh has the axes `data` (replicas), `fsdp` (replicas that shard the weights), `expert`
(replicas that shard the experts) and `tensor` (shards of heads, ffw and vocabulary). `RULES` sends
a letter to mesh axes; going through an array's letters from the left, a mesh axis is used once, and
a size that it does not divide stays whole:

    DNH  ->  P("fsdp", "tensor", None)          weights
    BTD  ->  P(("data", "fsdp", "expert"), None, None)      B has taken fsdp, so D stays whole
    EBTD ->  P("expert", ("data", "fsdp"), None, None)      tokens that were sent to experts
"""

import math
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "expert", "tensor")
# What launchers set on the hosts of a run with several processes.
LAUNCHERS = ("SLURM_JOB_NUM_NODES", "TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS")
SCHEDULER = "xla_cpu_enable_concurrency_optimized_scheduler"
PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
RULES: Mapping[str, tuple[str, ...]] = {
    "B": ("data", "fsdp", "expert"),
    "D": ("fsdp",),
    "E": ("expert",),
    "N": ("tensor",),
    "K": ("tensor",),
    "F": ("tensor",),
    "I": ("tensor",),
    "V": ("tensor",),
}


def make(
    *, data: int = -1, fsdp: int = 1, expert: int = 1, tensor: int = 1,
    devices: Sequence | None = None,
) -> Mesh:  # fmt: skip
    """Build a mesh over `devices` (all of them when not given); one axis may be -1: the rest.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "expert": expert, "tensor": tensor}
    sizes = resolve(sizes, len(devices))
    shape = tuple(sizes.values())
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(shape))


def resolve(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Fill the one axis that is -1 so that the sizes multiply to `count` devices."""
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    bad = any(size < 1 and size != -1 for size in sizes.values()) or len(free) > 1
    if bad or count % fixed or (not free and fixed != count):
        fix = "give one axis -1 to take the rest" if not free else "use sizes that divide it"
        raise ValueError(f"mesh: got {dict(sizes)}; expected a product of {count} devices; {fix}")
    return {name: count // fixed if size == -1 else size for name, size in sizes.items()}


def spec(letters: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Place an array whose axes are `letters` on the mesh."""
    free, parts = set(mesh.axis_names), []
    for letter, size in zip(letters, shape, strict=True):
        axes = tuple(axis for axis in RULES.get(letter, ()) if axis in free)
        if not axes or size % math.prod(mesh.shape[axis] for axis in axes):
            parts.append(None)
            continue
        free -= set(axes)
        parts.append(axes if len(axes) > 1 else axes[0])
    return PartitionSpec(*parts)


def shardings(axes, abstract, mesh: Mesh):
    """Map a tree of letter strings and the tree of (abstract) arrays it describes to shardings."""
    place = lambda letters, leaf: NamedSharding(mesh, spec(letters, leaf.shape, mesh))
    return jax.tree.map(place, axes, abstract)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shardings(batch, mesh: Mesh):
    """Shard the first axis of every array of a batch over the replicas."""
    first = NamedSharding(mesh, PartitionSpec(RULES["B"]))
    return jax.tree.map(lambda leaf: first, batch)


def replicas(mesh: Mesh) -> int:
    """Count the parts that a batch is cut into."""
    return math.prod(mesh.shape[axis] for axis in RULES["B"])


def rows(least: int, mesh: Mesh) -> int:
    """Round a number of rows up to a multiple of the replicas."""
    parts = replicas(mesh)
    return -(-least // parts) * parts


def check_batch(batch_size: int, accumulate: int, mesh: Mesh | None) -> None:
    """Check that a batch divides into microbatches and over the replicas; no mesh has one.

    Raises:
      ValueError: it does not.
    """
    parts = accumulate * (1 if mesh is None else replicas(mesh))
    if batch_size % parts:
        axes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in RULES["B"])
        raise ValueError(
            f"batch_size: got {batch_size}; expected a multiple of accumulate {accumulate} x "
            f"{axes} = {parts}; change one of them"
        )


def current():
    """Return the mesh in force, without its devices; None without one of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or not set(AXES) <= set(mesh.axis_names) else mesh


def constrain(x: jax.Array, letters: str) -> jax.Array:
    """Pin an activation's layout under the mesh in force; without one, do nothing.

    Without it the compiler may propagate the weights' `fsdp` axis into activations.
    """
    mesh = current()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec(letters, x.shape, mesh))


def put(value, shardings):
    """Place host arrays, which every process has whole, on the mesh."""
    place = lambda leaf, s: jax.make_array_from_callback(leaf.shape, s, leaf.__getitem__)
    return jax.tree.map(place, value, shardings)


def put_local(batch, mesh: Mesh):
    """Place a batch of which every process has its own rows on the mesh."""
    place = jax.make_array_from_process_local_data
    return jax.tree.map(place, batch_shardings(batch, mesh), batch)


def start(*, coordinator: str = "", processes: int = 1, index: int = 0) -> None:
    """Join the processes of a run, before anything else of jax is used.

    With a coordinator (`host:port`) the processes are counted by hand; without one they are found
    where a launcher names them (SLURM, TPU pods, MPI), and one process is enough where none does.
    """
    _steady_fake_devices()
    if coordinator:
        jax.distributed.initialize(coordinator, num_processes=processes, process_id=index)
    elif any(name in os.environ for name in LAUNCHERS):
        jax.distributed.initialize()


def _steady_fake_devices() -> None:
    """Let several devices on one CPU run collectives in one order, and wait for each other.

    The default scheduler may start independent collectives in another order on each device; with
    fewer cores than devices they then wait for each other for ever. Nor may devices that wait hold
    the last threads that another one needs: NPROC is how many XLA makes, by default one a device.
    And on a busy machine a device may come late, for which XLA ends the process after 40 seconds.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    many = os.environ.get("JAX_NUM_CPU_DEVICES", "1") != "1" or "host_platform_device" in flags
    if many and SCHEDULER not in flags:
        os.environ.setdefault("NPROC", "32")
        os.environ["XLA_FLAGS"] = f"{flags} --{SCHEDULER}=false --{PATIENCE}=600".strip()
