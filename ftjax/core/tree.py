"""Trees by path: every leaf has a name like `model/blocks/attn/q`, and patterns choose among them.

A pattern is a glob over path segments: `*` stays within one segment, `**` crosses them, and
`{norm,bias}` is either of them. So
`adapters/**` is every adapter leaf, `**/b` every leaf called b, and `model/blocks/attn/*` the
attention weights. A pattern that matches nothing is an error: it is always a typo.

    trainable, frozen = partition(params, "adapters/**", where="trainable")
    assert combine(trainable, frozen) == params

Arrays of a stack of layers have a leading axis L. `Shared(x)` marks one that exists once for all of
them: it has no such axis, and the scan over the layers hands it to each as it is.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any

import jax

Tree = Any
TRANSPARENT = jax.tree_util.GetAttrKey("")  # the key of what adds no segment to a path


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Shared:
    """An array that all layers of a stack have in common; its path is the one of the wrapper."""

    value: Any

    def tree_flatten_with_keys(self):
        """Return the array under a key that paths do not show."""
        return ((TRANSPARENT, self.value),), None

    @classmethod
    def tree_unflatten(cls, _, children):
        """Wrap again."""
        return cls(*children)


def is_shared(node: Any) -> bool:
    """Return whether a node is `Shared`: the `is_leaf` of maps that treat it as one."""
    return isinstance(node, Shared)


def unshared(tree: Tree) -> Tree:
    """Unwrap every `Shared`: the tree as one layer sees it."""
    open_ = lambda node: node.value if is_shared(node) else node
    return jax.tree.map(open_, tree, is_leaf=is_shared)


def split_shared(tree: Tree) -> tuple[Tree, Tree]:
    """Split a tree into what is `Shared` and the rest; `combine` is the inverse."""
    first = lambda node: node if is_shared(node) else None
    second = lambda node: None if is_shared(node) else node
    return tuple(jax.tree.map(f, tree, is_leaf=is_shared) for f in (first, second))


def layer_axes(tree: Tree) -> Tree:
    """Return 0 for every leaf of a stack and None for what is `Shared`: axes for `jax.vmap`."""
    return jax.tree.map(lambda node: None if is_shared(node) else 0, tree, is_leaf=is_shared)


def map_stacked(function, tree: Tree, *rest: Tree) -> Tree:
    """Map `function` over the leaves that have an axis L; `Shared` ones stay as `tree` has them."""
    one = lambda node, *others: node if is_shared(node) else function(node, *others)
    return jax.tree.map(one, tree, *rest, is_leaf=is_shared)


def path_name(keys: tuple) -> str:
    """Join a jax key path into `a/b/c`."""
    return "/".join(_segment(key) for key in keys if key != TRANSPARENT)


def _segment(key: Any) -> str:
    match key:
        case jax.tree_util.DictKey(key=name):
            return str(name)
        case jax.tree_util.GetAttrKey(name=name):
            return name
        case jax.tree_util.SequenceKey(idx=index) | jax.tree_util.FlattenedIndexKey(key=index):
            return str(index)
    raise TypeError(
        f"tree: got a key of type {type(key).__name__}; expected dict, attribute, index"
    )


def paths(tree: Tree) -> dict[str, Any]:
    """List the leaves of `tree` by path; holes (`None`) are left out."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(keys): leaf for keys, leaf in leaves}


def map_with_paths(function, tree: Tree, *rest: Tree, is_leaf=None) -> Tree:
    """Map `function(path, leaf, *others)` over the leaves of `tree`."""
    call = lambda keys, *leaves: function(path_name(keys), *leaves)
    return jax.tree_util.tree_map_with_path(call, tree, *rest, is_leaf=is_leaf)


@functools.cache
def _regex(pattern: str) -> re.Pattern:
    pieces = re.split(r"(\*\*|\*|\{[^{}]*\})", pattern)
    return re.compile("".join(map(_piece, pieces)))


def _piece(piece: str) -> str:
    """Write a piece of a pattern as a regular expression."""
    if piece.startswith("{") and piece.endswith("}"):
        return f"(?:{'|'.join(_regex(each).pattern for each in piece[1:-1].split(','))})"
    return {"**": ".*", "*": "[^/]*"}.get(piece) or re.escape(piece)


def matches(pattern: str, path: str) -> bool:
    """Return whether the glob `pattern` covers the whole of `path`."""
    return _regex(pattern).fullmatch(path) is not None


def select(patterns: str | Iterable[str], names: Iterable[str], *, where: str) -> set[str]:
    """Choose the names that any pattern covers.

    `where` is the config key that the patterns came from, for the error.

    Raises:
      ValueError: a pattern matches nothing; the message offers the nearest names.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {name for name in names if matches(pattern, name)}
        if not hits:
            raise ValueError(_nothing(pattern, names, where))
        chosen |= hits
    return chosen


def _nothing(pattern: str, names: list[str], where: str) -> str:
    near = difflib.get_close_matches(pattern.replace("*", ""), names, n=5, cutoff=0.3) or names[:8]
    return (
        f"{where}: got the pattern {pattern!r}, which matches none of {len(names)} paths; expected "
        f"a glob over paths such as {', '.join(sorted(near))}; use * within a segment, ** across"
    )


def partition(
    tree: Tree, patterns: str | Iterable[str], *, where: str, exclude: Iterable[str] = ()
) -> tuple[Tree, Tree]:
    """Split `tree` into the leaves that the patterns choose and the rest.

    Returns two trees of the same structure with `None` in place of what went to the other.
    `exclude` lists exact paths that go to the rest whatever the patterns say.
    """
    chosen = select(patterns, paths(tree), where=where) - set(exclude)
    inside = map_with_paths(lambda path, leaf: leaf if path in chosen else None, tree)
    outside = map_with_paths(lambda path, leaf: None if path in chosen else leaf, tree)
    return inside, outside


def combine(first: Tree, second: Tree) -> Tree:
    """Fill the holes of `first` from `second`: the inverse of `partition`."""
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, first, second, is_leaf=lambda leaf: leaf is None)


def bytes_of(tree: Tree) -> int:
    """Count the bytes of all arrays (or abstract arrays) in `tree`."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def size_of(tree: Tree) -> int:
    """Count the elements of all arrays (or abstract arrays) in `tree`."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
