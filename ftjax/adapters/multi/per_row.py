"""A batch whose rows use different adapters, in one forward pass over one base.

    found = stack([a, b, {}], linears=model.linears)      members on an axis M; {} is the base
    x = model.hidden(params, tokens_BT, ..., adapters=select(found, rows_B))

Row i is computed with member rows_B[i]: of LoRA the row's own factors are gathered, and the weight
is one for all. The members are adapters of one method; ranks may differ, and sites, where the
method can say what adapts nothing. What merges weights cannot be mixed: adapters of a head or a
tied embedding, prompts, and experts that are dispatched without seats.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ftjax.adapters.lib import protocol
from ftjax.adapters.peft import io as peft
from ftjax.core import config as conf
from ftjax.core import einsum, tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows(protocol.Adapter):
    """An adapter whose arrays have an axis M, and the member (B) that each row uses."""

    members: protocol.Adapter
    rows: Any  # `Shared` in a stack of layers

    @property
    def FROZEN(self) -> tuple[str, ...]:
        """The members' own data, and the rows."""
        return ("rows", *(f"members/{name}" for name in self.members.FROZEN))

    def merge(self, equation: str, w: jax.Array) -> jax.Array:
        """Refuse: there is a weight for each member."""
        raise ValueError(
            f"adapters: got rows with adapters of their own at {equation}; expected a place where "
            "no weight is merged; leave out the head, and the embedding where it is the head"
        )

    def apply(self, equation: str, x: jax.Array, w: jax.Array, key=None) -> jax.Array:
        """Apply to each row its own adapter."""
        e = einsum.parse(equation)
        into, out = e.x.index("B"), e.y.index("B")

        def one(adapter, x, key):
            y = adapter.apply_alone(equation, jnp.expand_dims(x, into), w, key)
            return jnp.squeeze(y, out)

        own = self._own(x.shape[into])
        keys = None if key is None else jax.random.split(key, x.shape[into])
        return jax.vmap(one, (0, into, None if key is None else 0), out)(own, x, keys)

    def apply_rows(self, equation: str, x, w, contract, key=None) -> jax.Array:
        """Refuse: rows in order of experts are no longer the batch's."""
        raise ValueError(
            "adapters: got rows with adapters of their own at experts; expected model.dispatch = "
            "'capacity', whose seats are rows of the batch"
        )

    def lookup(self, tokens_BT: jax.Array, w_VD: jax.Array) -> jax.Array:
        """Take rows of each one's own embedding."""
        one = lambda adapter, tokens_T: adapter.lookup(tokens_T[None], w_VD)[0]
        return jax.vmap(one)(self._own(tokens_BT.shape[0]), tokens_BT)

    def axes(self, equation: str) -> "Rows":
        """Members come before their own letters."""
        letters = self.members.axes(equation)
        return Rows(jax.tree.map(lambda own: "M" + own, letters), tree.Shared("B"))

    def _own(self, count: int):
        """Gather the adapter of every row, B in front."""
        if self.rows.shape != (count,):
            raise ValueError(
                f"adapters: got {self.rows.shape} for the rows' adapters in a batch of {count}; "
                "expected one for each row, see `per_row.select`"
            )
        return jax.tree.map(lambda leaf: leaf[self.rows], self.members)


def stack(found: Sequence[Mapping[str, Any]], *, linears: Mapping[str, Any]) -> dict:
    """Lay trees of adapters side by side; every row of a batch of one uses the first.

    Raises:
      ValueError: the adapters of a site are of different methods or sizes, or change no weight.
    """
    sites, result = [protocol.sites(one) for one in found], {}
    for path in dict.fromkeys(path for one in sites for path in one):
        own = [one.get(path) for one in sites]
        protocol.insert(result, path, _join(path, own, linears.get(path)))
    return select(result, jnp.zeros(1, jnp.int32))


def select(adapters: Mapping[str, Any], rows_B: jax.Array) -> Any:
    """Return which member each row of a batch uses."""
    put = lambda x: dataclasses.replace(x, rows=_like(x.rows, rows_B))
    return jax.tree.map(put, adapters, is_leaf=protocol.is_adapter)


def _like(node, value):
    return tree.Shared(value) if tree.is_shared(node) else value


def _join(path: str, own: list, site) -> Rows:
    """Stack the adapters of one site on M; None is one that is not adapted."""
    like = next(x for x in own if x is not None)
    if site is None or not like.MERGES:
        raise ValueError(
            f"adapters/{path}: got a {type(like).__name__} for some rows; expected adapters of "
            "weights; generate with it alone"
        )
    members = [_absent(path, like) if x is None else x for x in own]
    stacked, letters = site.stack is not None, like.axes(site.equation)
    letters = letters if stacked else tree.unshared(letters)
    if len({jax.tree.structure(x) for x in members}) > 1:
        kinds = conf.listed({type(x).__name__ for x in members})
        raise ValueError(
            f"adapters/{path}: got {kinds}; expected adapters of one method with the same settings"
        )

    pile = functools.partial(_pile, path, padded="R" if like.PADS else "")

    def join(letters, *leaves):
        if tree.is_shared(letters):
            return tree.Shared(pile(letters.value, [leaf.value for leaf in leaves], axis=0))
        return pile("L" * stacked + letters, leaves, axis=int(stacked))

    members = jax.tree.map(join, letters, *members, is_leaf=tree.is_shared)
    return Rows(members, tree.Shared(None) if stacked else None)


def _pile(path: str, letters: str, arrays: Sequence, *, axis: int, padded: str) -> jax.Array:
    """Stack arrays of these letters; along `padded` zeros fill up the smaller ones."""
    most = [max(sizes) for sizes in zip(*(x.shape for x in arrays), strict=True)]
    lacking = [[big - small for big, small in zip(most, x.shape, strict=True)] for x in arrays]
    longer = {c for gaps in lacking for c, gap in zip(letters, gaps, strict=True) if gap}
    if longer - set(padded):
        shapes = conf.listed({str(x.shape) for x in arrays})
        raise ValueError(f"adapters/{path}: got arrays {shapes}; expected the same sizes")
    if longer:
        pads = [[(0, gap) for gap in gaps] for gaps in lacking]
        arrays = [jnp.pad(x, pad) for x, pad in zip(arrays, pads, strict=True)]
    return jnp.stack(arrays, axis)


def _absent(path: str, like: protocol.Adapter):
    """Make the adapter of a member that does not adapt a site."""
    for method in peft.formats().values():
        if isinstance(like, method.kinds) and method.is_target(like):
            return method.absent(like)
    raise ValueError(
        f"adapters/{path}: got a {type(like).__name__} for some members only; expected one for all"
    )
