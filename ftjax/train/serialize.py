"""A state on the disk: plain nested dicts named by path, readable without ftjax.

Named tuples, registered dataclasses and tuples become dicts, holes (`None`) vanish, typed random
keys become their uint32 data. The way back takes its structure from a state of the same kind, real
or abstract, whose shardings say where the arrays go:

    nested = to_disk(state)              # {"params": {...}, "opt_state": {"0": {"mu": ...}}, ...}
    state = from_disk(nested, like=abstract_state)
"""

from typing import Any

import jax

from ftjax.core import tree

Tree = Any


def to_disk(state: Tree) -> dict:
    """Turn `state` into nested dicts of plain arrays."""
    return _nest({path: _plain(leaf)[0] for path, leaf in _leaves(state).items()})


def abstract(like: Tree) -> dict:
    """Return shape, dtype and sharding of every array that `to_disk(like)` holds."""
    return _nest({path: _plain_struct(leaf) for path, leaf in _leaves(like).items()})


def from_disk(nested: dict, *, like: Tree) -> Tree:
    """Rebuild the structure of `like` from nested dicts: the inverse of `to_disk`."""
    return tree.map_with_paths(lambda path, leaf: _rebuild(_find(nested, path), leaf), like)


def listing(state: Tree) -> dict[str, dict]:
    """List path, shape and dtype of every leaf, for the manifest."""
    return {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        for path, leaf in _leaves(state).items()
    }


def compare(saved: dict[str, dict], like: Tree, *, partial: bool = False) -> list[str]:
    """Describe in lines how a saved listing differs from the state that it should fill.

    partial: what is in the checkpoint alone is no difference.
    """
    wanted = listing(like)
    lines = [f"  {path}: not in the checkpoint" for path in wanted if path not in saved]
    if not partial:
        lines += [f"  {path}: in the checkpoint alone" for path in saved if path not in wanted]
    for path in wanted.keys() & saved.keys():
        if saved[path] != wanted[path]:
            lines.append(f"  {path}: checkpoint {_text(saved[path])}, here {_text(wanted[path])}")
    return sorted(lines)


def _text(entry: dict) -> str:
    return f"{entry['dtype']}{entry['shape']}"


def _leaves(state: Tree) -> dict[str, Any]:
    leaves = tree.paths(state)
    # Paths are the names on disk: the second of two would replace the first.
    if len(leaves) != len(jax.tree.leaves(state)):
        raise ValueError("checkpoint: got a state in which two leaves share a path; rename one")
    for path, leaf in leaves.items():
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            raise ValueError(
                f"checkpoint: got {type(leaf).__name__} at {path}; expected a jax.Array; "
                "convert it with jnp.asarray(value, dtype)"
            )
    return leaves


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> tuple[Any, Any]:
    """Return the array to store and, for a typed key, its implementation."""
    if not _is_key(leaf):
        return leaf, None
    # A typed key is no array that orbax can write; its data are.
    return jax.random.key_data(leaf), jax.random.key_impl(leaf)


def _plain_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    # Without one orbax takes the sharding it finds saved, of devices that may not be here.
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    data = jax.eval_shape(lambda x: _plain(x)[0], leaf)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _rebuild(array: jax.Array, leaf: Any) -> jax.Array:
    if not _is_key(leaf):
        return array
    found = []  # an abstract key tells its implementation only under a trace
    jax.eval_shape(lambda x: found.append(jax.random.key_impl(x)) or jax.random.key_data(x), leaf)
    return jax.random.wrap_key_data(array, impl=found[0])


def _nest(flat: dict[str, Any]) -> dict:
    nested: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return nested


def _find(nested: dict, path: str) -> Any:
    for name in path.split("/"):
        nested = nested[name]
    return nested


def changes(saved: dict, here: dict, free: tuple[str, ...]) -> list[str]:
    """List `path: saved -> here` for every setting that differs, less the free ones."""
    old, new = ({**_flat(x["config"], ""), **_flat(x["frozen"], "frozen/")} for x in (saved, here))
    missing = "(absent)"
    return [
        f"  {path}: {old.get(path, missing)!r} -> {new.get(path, missing)!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path, missing) != new.get(path, missing)
        and not any(tree.matches(pattern, path) for pattern in free)
    ]


def _flat(config: dict, prefix: str) -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        # An empty section is a value, or it would compare equal to one that is not there.
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}/") if nested else {f"{prefix}{name}": value}
    return flat
