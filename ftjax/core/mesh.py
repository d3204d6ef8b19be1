"""Meshes, and where every array lies on them: einsum letters -> mesh axes, in one place.

A device mesh has the axes `data` (replicas), `member` (runs of a program of many, which nothing
joins), `fsdp` (replicas that shard the weights), `expert`
(replicas that shard the experts), `sequence` (parts of every row, which shard the weights as `fsdp`
does) and `tensor` (shards of heads, ffw and vocabulary). `RULES` sends a letter to mesh axes; going
through an array's letters from the left, a mesh axis is used once, and a size that it does not
divide stays whole:

    DNH  ->  P("fsdp", "tensor", None)          weights
    BTD  ->  P(("data", "fsdp", "expert"), None, None)      B has taken fsdp, so D stays whole
    EBTD ->  P("expert", ("data", "fsdp"), None, None)      tokens that were sent to experts

With parts of rows these are P(("fsdp", "sequence"), "tensor", None), and "sequence" in place of the
first None of the others.
"""

import math
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MEMBER, SEQUENCE = "member", "sequence"
AXES = ("data", MEMBER, "fsdp", "expert", SEQUENCE, "tensor")
RULES: Mapping[str, tuple[str, ...]] = {
    "B": ("data", "fsdp", "expert"),
    "T": (SEQUENCE,),
    "D": ("fsdp", SEQUENCE),
    "E": ("expert",),
    "N": ("tensor",),
    "K": ("tensor",),
    "F": ("tensor",),
    "I": ("tensor",),
    "V": ("tensor",),
    "U": ("tensor",),
    # In the loop of the loss: its rows are on the replicas of weights all, its vocabulary in parts.
    "b": ("data", "expert"),
    "v": ("tensor", "fsdp", SEQUENCE),
}
# How messages name what a letter counts.
WORDS = {
    "D": "the width of the model", "E": "the experts", "N": "the heads", "K": "the heads of keys",
    "F": "the width of the feed-forward layers", "I": "the inner width", "V": "the vocabulary",
}  # fmt: skip
MAY_REPLICATE = ("K", "V")


def make(
    *, data: int = -1, member: int = 1, fsdp: int = 1, expert: int = 1, sequence: int = 1,
    tensor: int = 1, devices: Sequence | None = None,
) -> Mesh:  # fmt: skip
    """Build a mesh over `devices` (all of them when not given); one axis may be -1: the rest.

    devices: of this machine, or of a topology that programs are only compiled for.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dict(zip(AXES, (data, member, fsdp, expert, sequence, tensor), strict=True))
    shape = tuple(resolve(sizes, len(devices)).values())
    # Auto, since `jax.make_mesh` gives Explicit axes, under which plain matmuls do not trace.
    return Mesh(arrange(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(shape))


def arrange(devices: Sequence, shape: tuple[int, ...]) -> np.ndarray:
    """Lay devices into an array: a TPU's so that neighbours on an axis are neighbours on its torus.

    Where a TPU has several slices, with the slower network between them, they divide `data`.

    Raises:
      ValueError: they do not divide it.
    """
    if devices[0].platform != "tpu" or len(devices) == 1:
        return np.asarray(devices).reshape(shape)
    # An axis may lie on a part of an axis of the torus: fsdp=64 x tensor=4 on 16x16.
    options = dict(devices=devices, allow_split_physical_axes=True)
    slices = len({slice_of(device) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, **options)
    data, *rest = shape
    if data % slices:
        raise ValueError(
            f"mesh.data: got {data}; expected a multiple of {slices}, the slices of the devices; "
            f"use mesh.data={slices} and less of the other axes"
        )
    inner, outer = (data // slices, *rest), (slices, *(1 for _ in rest))
    return mesh_utils.create_hybrid_device_mesh(inner, outer, **options)


def slice_of(device) -> int:
    """Return the slice of a TPU's device; those of a topology of one slice do not name it."""
    try:
        return device.slice_index
    except AttributeError:
        return 0


def resolve(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Fill the one axis that is -1 so that the sizes multiply to `count` devices."""
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    bad = any(size < 1 and size != -1 for size in sizes.values()) or len(free) > 1
    if bad or count % fixed or (not free and fixed != count):
        fix = "give one axis -1 to take the rest" if not free else "use sizes that divide it"
        raise ValueError(f"mesh: got {dict(sizes)}; expected a product of {count} devices; {fix}")
    return {name: count // fixed if size == -1 else size for name, size in sizes.items()}


def fit(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Change sizes that were chosen for other devices as little as `count` devices need.

    Axes that cut weights stay, or become the largest divisor that fits; `data` takes the rest.
    """
    found, left = {}, count
    for axis in ("tensor", "expert", "fsdp", SEQUENCE, MEMBER):
        wanted = sizes.get(axis, 1)
        found[axis] = math.gcd(left if wanted == -1 else wanted, left)
        left //= found[axis]
    return {axis: found.get(axis, left) for axis in AXES}


def check_sizes(sizes: Mapping[str, int], mesh: Mesh) -> None:
    """Check that the mesh divides a model's sizes by letter, which `spec` would else leave whole.

    The heads of keys may be fewer than the shards and the vocabulary odd: that costs memory, no
    more, and is said.

    Raises:
      ValueError: an axis does not divide another size; with the sizes that do.
    """
    for letter, size in sizes.items():
        cut = 1
        for axis in RULES.get(letter, ()):
            parts, others = mesh.shape[axis], cut
            cut *= parts
            if size % cut == 0:
                continue
            if letter in MAY_REPLICATE:
                sys.stderr.write(
                    f"mesh.{axis}: {parts} does not divide {WORDS[letter]} ({size}): every one of "
                    f"the {parts} devices holds all of it\n"
                )
                continue
            fits = lambda n, axis=axis, others=others: _divides(n, axis, sizes, mesh, others)
            legal = list(filter(fits, range(1, parts + 1)))
            what = f"{WORDS[letter]} ({size})" + (f" in {others} parts" if others > 1 else "")
            raise ValueError(
                f"mesh.{axis}: got {parts}, which does not divide {what}; "
                f"expected one of {', '.join(map(str, legal))}; use mesh.{axis}={legal[-1]}"
            )


def _divides(parts: int, axis: str, sizes: Mapping[str, int], mesh: Mesh, others: int) -> bool:
    own = [n for letter, n in sizes.items()
           if axis in RULES.get(letter, ()) and letter not in MAY_REPLICATE]  # fmt: skip
    left = mesh.shape[axis] * mesh.shape["data"]
    return left % parts == 0 and not any(n % (parts * others) for n in own)


def spec(letters: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Place an array whose axes are `letters` on the mesh."""
    # Rows that no axis cuts are as if there were none: `D` is then on `fsdp` alone.
    free, parts = {axis for axis in mesh.axis_names if axis != SEQUENCE or mesh.shape[axis] > 1}, []
    for letter, size in zip(letters, shape, strict=True):
        axes = tuple(axis for axis in RULES.get(letter, ()) if axis in free)
        if not axes or size % math.prod(mesh.shape[axis] for axis in axes):
            # Parts of rows are the row's or nobody's: one token is no reason to cut its features.
            free -= {SEQUENCE} if letter == "T" else set()
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
    return jax.tree.map(lambda leaf: _batch_sharding(mesh), batch)


def _batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(RULES["B"]))


def check_rows(max_tokens: int, mesh: Mesh, *, where: str) -> None:
    """Check that the mesh cuts rows of `max_tokens` into equal parts.

    Raises:
      ValueError: it does not; with a length that it cuts.
    """
    parts = mesh.shape[SEQUENCE]
    if max_tokens % parts:
        legal = -(-max_tokens // parts) * parts
        raise ValueError(
            f"{where}: got {max_tokens}; expected a multiple of mesh.{SEQUENCE} {parts}, the parts "
            f"that rows are cut into; use {where}={legal}"
        )


def replicas(mesh: Mesh) -> int:
    """Count the parts that a batch is cut into."""
    return math.prod(mesh.shape[axis] for axis in RULES["B"])


def round_up_to_replicas(count: int, mesh: Mesh) -> int:
    """Round a number of rows up to a multiple of the replicas."""
    parts = replicas(mesh)
    return -(-count // parts) * parts


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


def row_parts(T: int) -> int:
    """Count the parts that the mesh in force cuts rows of T tokens into: 1 where it leaves them.

    In the program of a single device, inside of `shard_map`, a row is what that device has of it.
    """
    mesh = current()
    if mesh is None or SEQUENCE not in free_axes(mesh) or T % mesh.shape[SEQUENCE]:
        return 1
    return mesh.shape[SEQUENCE]


def free_axes(mesh) -> set[str]:
    """Return the axes that the compiler cuts arrays by: not those of a `shard_map` around."""
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {axis for axis, kind in types if kind != AxisType.Manual}


def platform() -> str | None:
    """Return what the mesh in force is made of, as "cpu" or "tpu"; None without one of ours."""
    device = _device()
    return device and device.platform


def is_nvidia() -> bool:
    """Return whether the mesh in force is made of NVIDIA's GPUs, which are here or not."""
    device = _device()
    return bool(device) and "nvidia" in device.device_kind.lower()


def _device():
    """Return what JAX says of the devices of the mesh in force; None without one of ours."""
    mesh = current()
    return mesh and mesh.abstract_device


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


def local_rows(rows: int, mesh: Mesh) -> list[int]:
    """List the rows of a batch of `rows` that lie on this process's devices, in order.

    Processes that are parts of one replica, as `tensor` across hosts makes them, have the same.
    """
    places = _batch_sharding(mesh).addressable_devices_indices_map((rows,))
    return sorted({row for (rows_of,) in places.values() for row in range(rows)[rows_of]})


def put_local(batch, mesh: Mesh, *, rows: int, before: tuple[str | None, ...] = ()):
    """Place a batch of `rows` rows, of which every process has its `local_rows`, on the mesh.

    before: what cuts the axes before that of the rows, None for nothing; whole in every process.

    Raises:
      ValueError: the batch has another number of rows.
    """
    own, axis = np.asarray(local_rows(rows, mesh)), len(before)
    sharding = NamedSharding(mesh, PartitionSpec(*before, RULES["B"]))

    def place(leaf):
        if leaf.shape[axis] != len(own):
            raise ValueError(
                f"batch_size: got {leaf.shape[axis]} rows in process {jax.process_index()}; "
                f"expected {len(own)}, its part of a batch of {rows} on the mesh {dict(mesh.shape)}"
            )
        shape = (*leaf.shape[:axis], rows, *leaf.shape[axis + 1 :])

        def pick(index):
            return leaf[index[:axis]].take(np.searchsorted(own, range(rows)[index[axis]]), axis)

        return jax.make_array_from_callback(shape, sharding, pick)

    return jax.tree.map(place, batch)
